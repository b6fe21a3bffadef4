package boot

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/disks"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// Bounds of a BootConfig. The host is trusted, and the bounds give its mistakes a clear error.
const (
	maxOperators     = 64
	maxKeys          = 256
	maxKeyBytes      = 16 << 10
	maxHostnameBytes = 64 // HOST_NAME_MAX of Linux
)

// errNoConfig means that the VM was started without a BootConfig.
var errNoConfig = errors.New("the VM has no boot configuration: no SMBIOS OEM string starts with " +
	agentapi.BootConfigPrefix)

// readBootConfig reads the BootConfig that the host passed at start.
func readBootConfig() (agentapi.BootConfig, error) {
	table, err := fileio.Read(smbiosTable, maxSMBIOSTable)
	if err != nil {
		return agentapi.BootConfig{}, fmt.Errorf("read boot configuration: %w", err)
	}
	strings, err := oemStrings(table)
	if err != nil {
		return agentapi.BootConfig{}, fmt.Errorf("read boot configuration from %s: %w", smbiosTable, err)
	}
	return bootConfig(strings)
}

// FirmwareDisks are the further disks with file systems in the boot configuration that the firmware has.
func FirmwareDisks() (disks.Firmware, error) {
	config, err := readBootConfig()
	return disks.Firmware{Disks: config.Disks, Changes: config.Changes}, err
}

// bootConfig finds and checks the one BootConfig among OEM strings.
func bootConfig(oem []string) (agentapi.BootConfig, error) {
	var config agentapi.BootConfig
	var encoded []string
	for _, text := range oem {
		if rest, ok := strings.CutPrefix(text, agentapi.BootConfigPrefix); ok {
			encoded = append(encoded, rest)
		}
	}
	if len(encoded) == 0 {
		return config, errNoConfig
	}
	if len(encoded) > 1 {
		return config, fmt.Errorf("boot configuration: %d SMBIOS OEM strings start with %s, there must be one",
			len(encoded),
			agentapi.BootConfigPrefix)
	}
	// Unknown fields are ignored: a newer provider may pass fields that an older agent does not know.
	if err := json.Unmarshal([]byte(encoded[0]), &config); err != nil {
		return agentapi.BootConfig{}, fmt.Errorf("decode boot configuration: %w", err)
	}
	if err := checkConfig(config); err != nil {
		return agentapi.BootConfig{}, fmt.Errorf("boot configuration: %w", err)
	}
	return config, nil
}

// hostname reports whether a name has the form of RFC 1123: labels of at most 63 letters, digits and inner hyphens,
// separated by dots.
func hostname(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return false
			}
		}
	}
	return true
}

func checkConfig(config agentapi.BootConfig) error {
	if err := checkStack(config.Stack); err != nil {
		return err
	}
	if err := checkIdentity(config); err != nil {
		return err
	}
	if len(config.Operators) > maxOperators {
		return fmt.Errorf("%d operators are more than %d", len(config.Operators), maxOperators)
	}
	for i, operator := range config.Operators {
		key, err := base64.StdEncoding.Strict().DecodeString(operator)
		if err != nil {
			return fmt.Errorf("operator key %d: %w", i+1, err)
		}
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("operator key %d has %d bytes, an Ed25519 public key %d", i+1,
				len(key), ed25519.PublicKeySize)
		}
	}
	return nil
}

// checkIdentity checks what the host may change while the VM runs.
func checkIdentity(config agentapi.BootConfig) error {
	if len(config.Hostname) > maxHostnameBytes || !hostname(config.Hostname) {
		return fmt.Errorf("%q is not a host name of at most %d bytes", config.Hostname, maxHostnameBytes)
	}
	if len(config.AuthorizedKeys) > maxKeys {
		return fmt.Errorf("%d authorized keys are more than %d", len(config.AuthorizedKeys), maxKeys)
	}
	for i, key := range config.AuthorizedKeys {
		if len(key) > maxKeyBytes || strings.ContainsAny(key, "\r\n\x00") {
			return fmt.Errorf("authorized key %d is not one line of at most %d bytes", i+1, maxKeyBytes)
		}
	}
	return nil
}

// checkStack checks what the code that opens layers relies on.
func checkStack(stack release.Stack) error {
	if len(stack.Layers) == 0 || len(stack.Layers) > release.MaxStackLayers ||
		len(stack.Components) > release.MaxComponents {
		return fmt.Errorf("stack of %d layers and %d components: it must have 1 to %d layers and at most %d components",
			len(stack.Layers), len(stack.Components), release.MaxStackLayers, release.MaxComponents)
	}
	seen := make(map[string]bool, len(stack.Layers))
	for i, layer := range stack.Layers {
		switch {
		case layer.ID.IsZero():
			return fmt.Errorf("layer %d of the stack has no id", i+1)
		case seen[layer.ID.Hex()]:
			return fmt.Errorf("layer %s stands twice in the stack", layer.ID)
		case layer.DataSize <= 0 || layer.DataSize%4096 != 0 || layer.DataSize > 1<<50:
			return fmt.Errorf("layer %s: data size %d is not a positive multiple of 4096", layer.ID, layer.DataSize)
		}
		seen[layer.ID.Hex()] = true
	}
	return nil
}

package boot

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// productUUID is the domain's UUID, from the firmware.
const productUUID = "/sys/class/dmi/id/product_uuid"

// identityFile has what the running system was given.
const identityFile = mounts.StateDir + "/identity.json"

// maxIdentityFile bounds a file of the VM that is read before it is changed, in bytes.
const maxIdentityFile = 1 << 20

// readUUID returns the domain's UUID in canonical lower-case form.
func readUUID() (string, error) {
	data, err := fileio.Read(productUUID, 256)
	if err != nil {
		return "", fmt.Errorf("read the VM's UUID: %w", err)
	}
	uuid := strings.ToLower(strings.TrimSpace(string(data)))
	if _, err := machineID(uuid); err != nil {
		return "", fmt.Errorf("read the VM's UUID from %s: %w", productUUID, err)
	}
	return uuid, nil
}

// machineID is the UUID in machine-id(5)'s form: 32 hexadecimal digits, not all zero.
func machineID(uuid string) (string, error) {
	groups := strings.Split(uuid, "-")
	id := strings.Join(groups, "")
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != 16 || len(groups) != 5 || len(bytes.Trim(raw, "\x00")) == 0 {
		return "", fmt.Errorf("%q is not a UUID", uuid)
	}
	return id, nil
}

// writeIdentity writes the files that identify this VM to the assembled system at target: machine-id, host name, hosts,
// and root's authorized keys. A file that is correct already is not written.
func writeIdentity(target, uuid string, config agentapi.BootConfig) (err error) {
	root, err := os.OpenRoot(target)
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	id, err := machineID(uuid)
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := replaceFile(root, "etc/machine-id", []byte(id+"\n"), 0o444); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := writeHostname(root, config.Hostname); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	// root may have changed its home so that this fails, which is no reason not to boot.
	if err := writeAuthorizedKeys(root, config.AuthorizedKeys); err != nil {
		say("root's authorized keys are left as they are: %v", err)
	}
	return nil
}

// writeHostname writes the host name. /etc/hosts follows as long as nobody else has changed it.
func writeHostname(root *os.Root, hostname string) error {
	before, _ := readInRoot(root, "etc/hostname") // what cannot be read is replaced
	hosts, err := readInRoot(root, "etc/hosts")
	if errors.Is(err, fs.ErrNotExist) ||
		err == nil && bytes.Equal(hosts, hostsFile(strings.TrimSpace(string(before)))) {
		// The hosts first: if this is cut off after them, a second call with this name finds them as they must be.
		if err := replaceFile(root, "etc/hosts", hostsFile(hostname), 0o644); err != nil {
			return err
		}
	}
	return replaceFile(root, "etc/hostname", []byte(hostname+"\n"), 0o644)
}

// given is the identity that Identify has given a running system. The firmware keeps the definition
// with which the VM was powered on. So a reset, or a start of another kernel, finds an older
// identity there than the system was given since, and takes the one given.
type given struct {
	// Over is the digest of the identity in the firmware when this was given. If the firmware has
	// another one, the VM was powered on since, with another definition, which counts then.
	Over           string   `json:"over"`
	Hostname       string   `json:"hostname"`
	AuthorizedKeys []string `json:"authorized_keys"`
}

// digestOf identifies what a boot configuration says of the identity.
func digestOf(config agentapi.BootConfig) (string, error) {
	says := []any{config.Hostname, config.AuthorizedKeys}
	if config.Changes > 0 {
		says = append(says, config.Changes)
	}
	text, err := json.Marshal(says)
	if err != nil {
		return "", err
	}
	return tree.Sum(text).String(), nil
}

// withGiven returns the boot configuration of the firmware, with the identity in file if that was
// given since the VM was powered on. It removes a file that is older, or that cannot be read.
func withGiven(file string, config agentapi.BootConfig) (agentapi.BootConfig, error) {
	text, err := fileio.Read(file, maxIdentityFile)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err != nil {
		return config, fmt.Errorf("read which host name and keys the VM was given: %w", err)
	}
	over, err := digestOf(config)
	if err != nil {
		return config, err
	}
	var has given
	changed := config
	if err = json.Unmarshal(text, &has); err == nil {
		changed.Hostname, changed.AuthorizedKeys = has.Hostname, has.AuthorizedKeys
		err = checkIdentity(changed)
	}
	if err == nil && has.Over == over {
		return changed, nil
	}
	if removed := os.Remove(file); removed != nil {
		err = errors.Join(err, removed)
	}
	if err != nil {
		return config, fmt.Errorf("read which host name and keys the VM was given: %w", err)
	}
	return config, nil
}

// Identify gives the running system the host name and root's keys that its definition gets, also
// for boots without a power-off.
func Identify(config agentapi.BootConfig) error {
	firmware, err := readBootConfig()
	if err != nil {
		return err
	}
	return give("/", identityFile, firmware, config)
}

// give is Identify for a system at a directory. The record comes first: whatever cuts this off, the
// next boot has all of it.
func give(directory, file string, firmware, config agentapi.BootConfig) (err error) {
	if err := checkIdentity(config); err != nil {
		return err
	}
	over, err := digestOf(firmware)
	if err != nil {
		return err
	}
	text, err := json.Marshal(given{over, config.Hostname, config.AuthorizedKeys})
	if err != nil {
		return err
	}
	if err := fileio.Replace(file, text, 0o600); err != nil {
		return err
	}
	root, err := os.OpenRoot(directory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := writeHostname(root, config.Hostname); err != nil {
		return err
	}
	return writeAuthorizedKeys(root, config.AuthorizedKeys)
}

func hostsFile(hostname string) []byte {
	names := hostname
	if short, _, dotted := strings.Cut(hostname, "."); dotted {
		names += " " + short
	}
	return []byte("127.0.0.1\tlocalhost\n127.0.1.1\t" + names + "\n::1\t\tlocalhost ip6-localhost ip6-loopback\n")
}

// writeAuthorizedKeys updates the managed block of root's authorized_keys to the keys of the VM's definition.
func writeAuthorizedKeys(root *os.Root, keys []string) error {
	const directory, file = "root/.ssh", "root/.ssh/authorized_keys"
	existing, err := readInRoot(root, file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	merged := mergeAuthorizedKeys(existing, keys)
	if bytes.Equal(merged, existing) {
		return nil
	}
	if err := root.Mkdir(directory, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return replaceFile(root, file, merged, 0o600)
}

func readInRoot(root *os.Root, name string) (data []byte, err error) {
	file, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err = io.ReadAll(io.LimitReader(file, maxIdentityFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxIdentityFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, maxIdentityFile)
	}
	return data, nil
}

// replaceFile gives a file in root new content by rename, unless it has that content already. A symbolic link in
// its place is replaced, not followed.
func replaceFile(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	if info, err := root.Lstat(name); err == nil && info.Mode().IsRegular() {
		if existing, err := readInRoot(root, name); err == nil && bytes.Equal(existing, data) {
			return nil
		}
	}
	temporary := path.Join(path.Dir(name), "."+path.Base(name)+".sharedos")
	if err := root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err := fileio.Fill(file, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return root.Rename(temporary, name)
}

package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	fwpath "github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// textRule is a validator of strings. check returns why it refuses a text.
//
// All rules for texts are textRules: the framework's own validators print the value that they refuse.
type textRule struct {
	form  string // completes "must be"
	check func(text string) error
	// secret is true if a value that the rule refuses may hold a secret, such as a private key in place of
	// a public one, or a URL with a password. Neither the value nor what check says about it is printed.
	secret bool
}

var _ validator.String = textRule{}

func (r textRule) Description(context.Context) string             { return "must be " + r.form }
func (r textRule) MarkdownDescription(ctx context.Context) string { return r.Description(ctx) }

func (r textRule) ValidateString(_ context.Context, req validator.StringRequest, resp *validator.StringResponse) {
	if req.ConfigValue.IsNull() || req.ConfigValue.IsUnknown() {
		return
	}
	value := req.ConfigValue.ValueString()
	err := r.check(value)
	if err == nil {
		return
	}
	summary, why := fmt.Sprintf("Unable to use the value of %s", req.Path), sentence(err)+" "
	shown, quoted := plain.Value(value)
	if !r.secret {
		summary = fmt.Sprintf("Unable to use %s as %s", shown, req.Path)
	}
	if reason := (*reasonError)(nil); errors.Is(err, errForm) || (r.secret || !quoted) && !errors.As(err, &reason) {
		why = "" // there is no more to say, or it quotes the value
	}
	if detail := why + "It must be " + r.form + "."; r.secret {
		// Terraform prints the lines of the configuration that the path leads to: the value, if it is a literal.
		resp.Diagnostics.AddError(summary, detail)
	} else {
		resp.Diagnostics.AddAttributeError(req.Path, summary, detail)
	}
}

// reasonError is an error that quotes nothing of the value that it is about, so that it can be shown if the value may
// be a secret.
type reasonError struct{ reason string }

func (e *reasonError) Error() string { return e.reason }

// errForm means that a text does not have the form that the rule describes.
var errForm = errors.New("another form")

// matches accepts texts of a pattern.
func matches(pattern *regexp.Regexp, form string) textRule {
	return textRule{form: form, check: func(text string) error {
		if !pattern.MatchString(text) {
			return errForm
		}
		return nil
	}}
}

// oneOf accepts some texts.
func oneOf(texts ...string) textRule {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = strconv.Quote(text)
	}
	return textRule{form: "one of " + strings.Join(quoted, ", "), check: func(text string) error {
		if !slices.Contains(texts, text) {
			return errForm
		}
		return nil
	}}
}

// notEmpty refuses the empty text.
var notEmpty = textRule{form: "at least one character long", check: func(text string) error {
	if text == "" {
		return &reasonError{"it is empty"}
	}
	return nil
}}

// isLocalPath accepts a path on this machine. The content of a file in its place is refused without being shown.
var isLocalPath = textRule{
	form: "the path of a file or directory on this machine", secret: true,
	check: func(text string) error {
		switch {
		case text == "":
			return &reasonError{"it is empty"}
		case strings.ContainsFunc(text, unicode.IsControl) || len(text) > 4096 || plain.Hide(text) != text:
			return &reasonError{"it looks like the content of a file, not like its path"}
		}
		return nil
	},
}

// isRelease accepts the id of a release.
var isRelease = textRule{
	form: `the id of a release, of the form "sha256:<64 hex>", such as sharedos_base.debian.release`,
	check: func(text string) error {
		_, err := tree.ParseDigest(text)
		return err
	},
}

// isName accepts the name of a base or VM, which becomes a part of names of volumes, domains and files.
var isName = matches(regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`),
	"a name: a name has 1 to 63 lower-case letters, digits, dots, underscores and hyphens, and starts with a letter or digit")

// maxHostname is the length of the longest host name that Linux can have (HOST_NAME_MAX), in bytes.
const maxHostname = 64

var labels = regexp.MustCompile(
	`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// isHostname accepts a host name as in RFC 1123, section 2.1, that Linux can have.
var isHostname = textRule{
	form: "a host name: a host name has labels of 1 to 63 letters, digits and hyphens, joined by dots, and at most 64 characters",
	check: func(text string) error {
		switch {
		case !labels.MatchString(text):
			return errForm
		case len(text) > maxHostname:
			return fmt.Errorf("it has %d characters", len(text))
		}
		return nil
	},
}

// isInterface accepts the name of a network interface as the key of a map, isBridge that of a
// bridge, and isNetwork that of a libvirt network.
var (
	isInterface = textRule{form: "a name of 1 to 32 letters, digits, underscores and hyphens, starting with a letter or digit",
		check: hypervisor.CheckInterfaceName}
	isBridge = textRule{form: "the name of a bridge: 1 to 15 letters, digits, dots, underscores and hyphens, starting with a letter or digit",
		check: hypervisor.CheckBridgeName}
	isNetwork = textRule{form: "the name of a libvirt network: 1 to 64 letters, digits, dots, underscores and hyphens, starting with a letter or digit",
		check: hypervisor.CheckNetworkName}
	isDiskName = textRule{form: "a name of 1 to 20 letters, digits, underscores and hyphens, starting with a letter or digit",
		check: hypervisor.CheckDiskName}
	isDiskSerial = textRule{form: "a serial of 1 to 20 letters, digits, underscores and hyphens",
		check: hypervisor.CheckDiskSerial}
	isMountPoint = textRule{form: "a directory in the VM that is not the operating system's, such as /srv/data",
		check: agentapi.CheckMountPoint}
	isPoolName    = textRule{form: "the name of a libvirt storage pool", check: store.CheckPoolName}
	isVolume      = textRule{form: "the name of a volume in a libvirt storage pool", check: store.CheckGivenVolume}
	isTitle       = textRule{form: "one line without control characters", check: hypervisor.CheckTitle}
	isDescription = textRule{form: "a text without control characters but tabs and ends of lines",
		check: hypervisor.CheckDescription}
)

// isMAC, isModel and isLink accept the MAC address, the model and the link of a network interface.
var (
	isMAC = textRule{form: "a unicast MAC address in the form 52:54:00:aa:bb:cc, lower case",
		check: hypervisor.CheckMAC}
	isModel = oneOf(hypervisor.Models...)
	isLink  = oneOf(linkUp, linkDown)
)

// These accept parts of the hardware of a VM.
var (
	isMachine  = textRule{form: "q35 or a version of it such as pc-q35-9.2", check: hypervisor.CheckMachine}
	isCPUModel = textRule{form: "host-passthrough, host-model, maximum, or the name of a model that virsh domcapabilities lists",
		check: hypervisor.CheckCPUModel}
	isProcessors = textRule{form: "numbers and ranges of them, such as 0-3,8", check: func(text string) error {
		_, err := hypervisor.Processors(text)
		return err
	}}
	isVCPU = textRule{form: fmt.Sprintf("the number of a virtual CPU, 0 to %d", hypervisor.MaxVCPUs-1),
		check: func(text string) error {
			if number, err := strconv.Atoi(text); err != nil || number < 0 || number >= hypervisor.MaxVCPUs ||
				strconv.Itoa(number) != text {
				return errForm
			}
			return nil
		}}
	isPCI = textRule{form: "a PCI address such as 0000:01:00.0, lower case", check: hypervisor.CheckPCI}
	isUSB = textRule{form: "a vendor and a product of USB such as 1d6b:0002, lower case",
		check: hypervisor.CheckUSB}
	isHostDevice  = textRule{form: "a name of 1 to 32 letters, digits, underscores and hyphens, starting with a letter or digit", check: hypervisor.CheckDeviceName}
	isHostPath    = textRule{form: "a clean absolute path on the host, such as /srv/data", check: hypervisor.CheckPath}
	isHostAddress = textRule{form: "an IP address of the host", check: func(text string) error {
		_, err := netip.ParseAddr(text)
		return err
	}}
)

// isUnit accepts the name of a systemd unit (systemd.unit(5)).
var isUnit = matches(
	regexp.MustCompile(
		`^[A-Za-z0-9:_.\\@-]{1,200}\.(service|scope|socket|mount|swap|path|timer|target|slice|automount|device)$`),
	"the name of a unit: a unit's name ends in its type, such as nginx.service")

// isActiveUnit accepts the name of a unit that can be active. A template cannot.
var isActiveUnit = textRule{
	form: "the name of a unit: a unit's name ends in its type, such as nginx.service, and that of a template has an instance, such as getty@tty1.service",
	check: func(text string) error {
		if err := isUnit.check(text); err != nil {
			return err
		}
		if strings.Contains(text, "@.") {
			return fmt.Errorf("%q is a template", text)
		}
		return nil
	},
}

// isEndpoint accepts the address of a TCP port.
var isEndpoint = textRule{
	form: `a host and a port, such as "127.0.0.1:5432", "localhost:80" or "[::1]:80"`,
	check: func(text string) error {
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			return fmt.Errorf("%q is not a host and a port, joined by a colon", text)
		}
		if err := isPort.check(port); err != nil {
			return err
		}
		if _, err := netip.ParseAddr(host); err != nil && isHostname.check(host) != nil {
			return fmt.Errorf("%q is neither an address nor a host name", host)
		}
		return nil
	},
}

// isProgram accepts the first word of a command.
var isProgram = textRule{
	form:   `a program: the name of one in the guest's search path, or its absolute path, such as "/usr/bin/pg_isready"`,
	secret: true,
	check: func(text string) error {
		switch {
		case text == "":
			return &reasonError{"it is empty"}
		case strings.ContainsAny(text, "\x00\n"):
			return errForm
		case strings.Contains(text, "/") && !path.IsAbs(text):
			return &reasonError{"it is neither a name nor an absolute path"}
		case strings.ContainsRune(text, ' '):
			return &reasonError{"it has a space: no shell splits it, so put each argument into an element of its own"}
		}
		return nil
	},
}

// isAbsolutePath accepts a path in a guest.
var isAbsolutePath = textRule{
	form: `an absolute path in the guest, such as "/usr/share/app/"`,
	check: func(text string) error {
		if !path.IsAbs(text) || len(text) > 4096 || strings.ContainsAny(text, "\x00\n") {
			return fmt.Errorf("%q is not an absolute path", text)
		}
		return nil
	},
}

// isEtcPattern accepts a pattern of paths below /etc.
var isPreferencePath = textRule{
	form: `an absolute path below "/", without ".", ".." and a "/" at its end`,
	check: func(text string) error {
		if !release.ValidPreferencePath(text) {
			return errForm
		}
		return nil
	},
}

var isEtcPattern = textRule{
	form: `a path or pattern below /etc, such as "/etc/ssh/*.conf"`,
	check: func(text string) error {
		if path.Clean(text) != text && path.Clean(text)+"/" != text ||
			!strings.HasPrefix(text, "/etc/") || text == "/etc/" ||
			len(text) > 4096 || strings.ContainsAny(text, "\x00\n") {
			return fmt.Errorf("%q is not a path below /etc", text)
		}
		if _, err := path.Match(text, ""); err != nil {
			return fmt.Errorf("%q is not a pattern: a bracket is not closed", text)
		}
		return nil
	},
}

// isPort accepts a TCP port as the key of a map.
var isPort = textRule{
	form: `a TCP port from 1 to 65535 in quotes, such as "8080"`,
	check: func(text string) error {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 || strconv.FormatUint(port, 10) != text {
			return fmt.Errorf("%q is not a TCP port", text)
		}
		return nil
	},
}

// isDuration accepts a duration of Go's form.
var isDuration = textRule{
	form:  `a duration from 0s to 10m, such as "5s", "1m30s" or "500ms"`,
	check: func(text string) error { return durationWithin(text, 0, 10*time.Minute) },
}

// isUUID accepts the UUID of a VM.
var isUUID = textRule{
	form: "a UUID in lower case, such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8",
	check: func(text string) error {
		parsed, err := uuid.Parse(text)
		if err == nil && parsed.String() != text {
			err = errors.New("it is not in the canonical form")
		}
		return err
	},
}

// isRestartTimeout accepts a limit for the restart of a unit.
var isRestartTimeout = textRule{
	form:  `a duration from 1s to 20m, such as "30s" or "1m30s"`,
	check: func(text string) error { return durationWithin(text, time.Second, 20*time.Minute) },
}

func durationWithin(text string, least, most time.Duration) error {
	duration, err := time.ParseDuration(text)
	if err == nil && (duration < least || duration > most) {
		err = fmt.Errorf("%s is out of range", text)
	}
	return err
}

// isKey accepts an OpenPGP public key.
var isKey = textRule{
	form: "an OpenPGP public key in ASCII armour, such as gpg --export --armor writes", secret: true,
	check: func(text string) error {
		switch {
		case strings.Contains(text, "PRIVATE KEY"):
			return &reasonError{"it is a private key"}
		case !armoured.MatchString(text):
			return &reasonError{"it is no public key in ASCII armour"}
		}
		return nil
	},
}

var armoured = regexp.MustCompile(
	`^\s*-----BEGIN PGP PUBLIC KEY BLOCK-----[\s\S]*-----END PGP PUBLIC KEY BLOCK-----\s*$`)

// isSHA256 accepts the hexadecimal form of a SHA-256.
var isSHA256 = matches(regexp.MustCompile(`^[0-9a-f]{64}$`),
	"a SHA-256: a SHA-256 has 64 hexadecimal digits in lower case")

// isPackageFile accepts the path of a Debian package.
var isPackageFile = textRule{
	form: "the path of a package file on this machine: the name of a package file ends in .deb", secret: true,
	check: func(text string) error {
		if !strings.HasSuffix(text, ".deb") {
			return &reasonError{"it does not end in .deb"}
		}
		return isLocalPath.check(text)
	},
}

// isAbsolute accepts a path in a base as the key of a map.
var isAbsolute = textRule{
	form: `an absolute path without "." and "..", such as "/etc/motd"`,
	check: func(text string) error {
		relative, ok := strings.CutPrefix(text, "/")
		if !ok {
			return fmt.Errorf("%q is not absolute", text)
		}
		return tree.CheckPath(relative)
	},
}

// isDownload accepts a URL that can be downloaded.
var isDownload = textRule{
	form: `an http or https URL, such as "https://example.com/rootfs.tar.zst"`, secret: true,
	check: func(text string) error {
		parsed, err := url.Parse(text)
		switch {
		case err != nil: // it quotes what it cannot parse, which can be a part of a password
			return &reasonError{"it is no URL; in a user name and a password, characters such as / and @ are written %2F and %40"}
		case parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "":
			return &reasonError{"it is no such URL"}
		}
		return nil
	},
}

// isReference accepts the reference of an image.
var isReference = textRule{
	form:   `the reference of an image without a user name and password, such as "registry.example.com/os/debian:13"`,
	secret: true,
	check: func(text string) error {
		registry, _, _ := strings.Cut(text, "/")
		switch {
		case text == "":
			return &reasonError{"it is empty"}
		case strings.Contains(text, "://"):
			return &reasonError{"it is a URL: a reference starts with the name of the registry"}
		case strings.Contains(registry, "@") && strings.Contains(text, "/"):
			return &reasonError{"it has a user name or a password: log in with docker login instead, whose credentials are used"}
		case strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
			return &reasonError{"it has spaces or line ends"}
		}
		return nil
	},
}

// isLoopbackURL accepts a URL on the loopback of a guest.
var isLoopbackURL = textRule{
	form: `an http URL on the guest's own loopback, such as "http://127.0.0.1/"`, secret: true,
	check: func(text string) error {
		parsed, err := url.Parse(text)
		switch {
		case err != nil:
			return &reasonError{"it is no URL"}
		case parsed.Scheme != "http":
			return &reasonError{"its scheme is not http"}
		case parsed.Port() != "" && isPort.check(parsed.Port()) != nil:
			return &reasonError{"its port is not from 1 to 65535"}
		}
		switch parsed.Hostname() {
		case "127.0.0.1", "::1", "localhost":
			return nil
		default:
			return &reasonError{"its host is not the guest's loopback"}
		}
	},
}

// exactlyOne refuses those objects in a map that set none or several of the named attributes.
func exactlyOne(at fwpath.Path, objects types.Map, names ...string) diag.Diagnostics {
	var diags diag.Diagnostics
	elements := objects.Elements()
	for _, key := range slices.Sorted(maps.Keys(elements)) {
		one, ok := elements[key].(types.Object)
		if !ok || one.IsUnknown() {
			continue
		}
		attributes := one.Attributes()
		if slices.ContainsFunc(names,
			func(name string) bool { return attributes[name] != nil && attributes[name].IsUnknown() }) {
			continue
		}
		set := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return unset(attributes[name]) })
		if len(set) == 1 {
			continue
		}
		have := "none of them is set"
		if len(set) > 1 {
			have = "these are set: " + strings.Join(set, ", ")
		}
		where := at.AtMapKey(key)
		diags.Append(failedAt(where, failure{
			do: "use", object: where.String(),
			err:  fmt.Errorf("exactly one of %s must be set, and %s", strings.Join(names, ", "), have),
			next: "Set exactly one of them.",
		})...)
	}
	return diags
}

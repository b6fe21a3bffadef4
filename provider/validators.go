package provider

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	fwpath "github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// textRule is a validator of strings. check returns why it refuses a text.
type textRule struct {
	form  string // completes "must be"
	check func(text string) error
}

var _ validator.String = textRule{}

func (r textRule) Description(context.Context) string             { return "must be " + r.form }
func (r textRule) MarkdownDescription(ctx context.Context) string { return r.Description(ctx) }

func (r textRule) ValidateString(_ context.Context, req validator.StringRequest, resp *validator.StringResponse) {
	if req.ConfigValue.IsNull() || req.ConfigValue.IsUnknown() {
		return
	}
	if err := r.check(req.ConfigValue.ValueString()); err != nil {
		resp.Diagnostics.AddAttributeError(req.Path, fmt.Sprintf("Unable to use %s as %s", printable(strconv.Quote(req.ConfigValue.ValueString())), req.Path),
			sentence(err)+" It must be "+r.form+".")
	}
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
var isName = stringvalidator.RegexMatches(regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`),
	"a name has 1 to 63 lower-case letters, digits, dots, underscores and hyphens, and starts with a letter or digit")

// isHostname accepts a host name as in RFC 1123, section 2.1.
var isHostname = stringvalidator.RegexMatches(
	regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`),
	"a host name has labels of 1 to 63 letters, digits and hyphens, joined by dots")

// isAuthorizedKey accepts one line of an authorized_keys file.
var isAuthorizedKey = stringvalidator.RegexMatches(regexp.MustCompile(`^[^\x00-\x1f#]+$`),
	"an authorized key is one line, as in an OpenSSH .pub file")

// isUnit accepts the name of a systemd unit (systemd.unit(5)).
var isUnit = stringvalidator.RegexMatches(
	regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,200}\.(service|scope|socket|mount|swap|path|timer|target|slice|automount|device)$`),
	"a unit's name ends in its type, such as nginx.service")

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
var isEtcPattern = textRule{
	form: `a path or pattern below /etc, such as "/etc/ssh/*.conf"`,
	check: func(text string) error {
		if path.Clean(text) != text && path.Clean(text)+"/" != text || !strings.HasPrefix(text, "/etc/") || text == "/etc/" ||
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
var isKey = stringvalidator.RegexMatches(regexp.MustCompile(`^\s*-----BEGIN PGP PUBLIC KEY BLOCK-----[\s\S]*-----END PGP PUBLIC KEY BLOCK-----\s*$`),
	"a key is an OpenPGP public key in ASCII armour, such as gpg --export --armor writes")

// isSHA256 accepts the hexadecimal form of a SHA-256.
var isSHA256 = stringvalidator.RegexMatches(regexp.MustCompile(`^[0-9a-f]{64}$`), "a SHA-256 has 64 hexadecimal digits in lower case")

// isPackageFile accepts the path of a Debian package.
var isPackageFile = stringvalidator.RegexMatches(regexp.MustCompile(`\.deb$`), "the name of a package file ends in .deb")

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
	form: `an http or https URL, such as "https://example.com/rootfs.tar.zst"`,
	check: func(text string) error {
		parsed, err := url.Parse(text)
		if err != nil {
			return err
		}
		if parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
			return fmt.Errorf("%q is not such a URL", parsed.Redacted())
		}
		return nil
	},
}

// isLoopbackURL accepts a URL on the loopback of a guest.
var isLoopbackURL = textRule{
	form: `an http URL on the guest's own loopback, such as "http://127.0.0.1/"`,
	check: func(text string) error {
		parsed, err := url.Parse(text)
		if err != nil {
			return err
		}
		if parsed.Scheme != "http" {
			return fmt.Errorf("the scheme %q is not http", parsed.Scheme)
		}
		switch parsed.Hostname() {
		case "127.0.0.1", "::1", "localhost":
			return nil
		default:
			return fmt.Errorf("%q is not the guest's loopback", parsed.Hostname())
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
		if slices.ContainsFunc(names, func(name string) bool { return attributes[name] != nil && attributes[name].IsUnknown() }) {
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
			do: "use", object: where.String(), err: fmt.Errorf("exactly one of %s must be set, and %s", strings.Join(names, ", "), have),
			next: "Set exactly one of them.",
		})...)
	}
	return diags
}

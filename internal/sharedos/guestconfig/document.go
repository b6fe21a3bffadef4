package guestconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Version is the version of the form of a document that this program writes.
const Version = 1

// Bounds of what is accepted. A message to an agent has at most 4 MiB, and the content of files
// grows by a third in JSON.
const (
	// MaxDocument bounds an encoded document, MaxSecrets the secrets of one document together, in bytes.
	MaxDocument = 2 << 20
	MaxSecrets  = 1 << 20
	// MaxEntries bounds the entries of each map of a document.
	MaxEntries = 1024
)

var (
	// ErrDocument means that bytes are no document that this program can use.
	ErrDocument = errors.New("not a configuration of a guest")
	// ErrTooLarge means that a configuration is larger than MaxDocument or MaxSecrets.
	ErrTooLarge = errors.New("the configuration of the guest is too large")
)

// Document is what the configuration of a VM says about its guest.
type Document struct {
	Version int `json:"version"`
	// Files by absolute path in the guest.
	Files map[string]File `json:"files,omitempty"`
	// Units by the name of the systemd unit.
	Units map[string]Unit `json:"units,omitempty"`
	// Users by the name of the account.
	Users map[string]User `json:"users,omitempty"`
	// Sysctl are kernel parameters by name, as in sysctl.d(5): "net.ipv4.ip_forward".
	Sysctl map[string]string `json:"sysctl,omitempty"`
	// TimeZone is a name below /usr/share/zoneinfo: "Europe/Berlin". "" leaves the guest's own.
	TimeZone string `json:"time_zone,omitempty"`
	// Locale is the value of LANG in locale.conf(5): "de_DE.UTF-8". "" leaves the guest's own.
	Locale string `json:"locale,omitempty"`
	// Networks by the name of the interface of the VM.
	Networks map[string]Network `json:"networks,omitempty"`
	// Swap is the size of a swap file in bytes; 0 for none.
	Swap int64 `json:"swap,omitempty"`
}

// File is a regular file. Its parent directories are made if they do not exist.
type File struct {
	// Content is empty for a secret, which is identified by SecretVersion instead.
	Content       []byte `json:"content,omitempty"`
	Secret        bool   `json:"secret,omitempty"`
	SecretVersion int64  `json:"secret_version,omitempty"`
	// Mode has permission bits alone, up to 0o777.
	Mode uint32 `json:"mode"`
	// Owner and Group are names or numbers.
	Owner string `json:"owner"`
	Group string `json:"group"`
	// Restart and Reload are units that use the file, sorted. They are restarted or reloaded, if
	// they run, when it changes.
	Restart []string `json:"restart,omitempty"`
	Reload  []string `json:"reload,omitempty"`
}

// Unit is what is configured of a systemd unit.
type Unit struct {
	// Content is the unit file; nil for a unit that the stack has.
	Content *string `json:"content,omitempty"`
	// DropIns are drop-in files by their names without directory: "limits.conf".
	DropIns map[string]string `json:"drop_ins,omitempty"`
	// Enabled and Started are nil if the guest decides.
	Enabled *bool `json:"enabled,omitempty"`
	Started *bool `json:"started,omitempty"`
}

// User is an account.
type User struct {
	// UID is nil if systemd-sysusers chooses the number.
	UID *uint32 `json:"uid,omitempty"`
	// Home and Shell are absolute paths.
	Home  string `json:"home"`
	Shell string `json:"shell"`
	// Groups are further groups, sorted. Those that do not exist are made.
	Groups []string `json:"groups,omitempty"`
	// AuthorizedKeys are OpenSSH public keys, one line each.
	AuthorizedKeys []string `json:"authorized_keys,omitempty"`
	// Sudo lets the account run every command as every account without a password.
	Sudo bool `json:"sudo,omitempty"`
}

// New returns a document that configures nothing.
func New() *Document { return &Document{Version: Version} }

// Empty reports whether the document configures nothing. A nil document does so.
func (d *Document) Empty() bool {
	return d == nil || len(d.Files)+len(d.Units)+len(d.Users)+len(d.Sysctl)+len(d.Networks) == 0 && d.TimeZone == "" &&
		d.Locale == "" && d.Swap == 0
}

// Encode returns the document in its one form: the same configuration has the same bytes.
// ErrTooLarge if it is larger than MaxDocument.
func (d *Document) Encode() ([]byte, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration of the guest: %w", err)
	}
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes, and %d are allowed", ErrTooLarge, len(text), MaxDocument)
	}
	return text, nil
}

// ID identifies what the document configures, "sha256:<64 hex>"; "" if it configures nothing. It says nothing about the
// content of secrets.
func (d *Document) ID() (string, error) {
	if d.Empty() {
		return "", nil
	}
	text, err := d.Encode()
	if err != nil {
		return "", err
	}
	return tree.Sum(text).String(), nil
}

// Decode reads a document from a source that is not trusted, and checks it. The error is ErrDocument or ErrTooLarge.
func Decode(text []byte) (*Document, error) {
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes, and %d are allowed", ErrTooLarge, len(text), MaxDocument)
	}
	reader := json.NewDecoder(bytes.NewReader(text))
	reader.DisallowUnknownFields()
	var document Document
	if err := reader.Decode(&document); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if _, err := reader.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows it", ErrDocument)
	}
	if document.Version != Version {
		return nil, fmt.Errorf("%w: it has the form of version %d, and this program knows version %d", ErrDocument,
			document.Version, Version)
	}
	if problems := document.Check(); len(problems) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrDocument, problems[0])
	}
	for _, name := range slices.Sorted(maps.Keys(document.Networks)) {
		if document.Networks[name].MAC == "" {
			return nil, fmt.Errorf("%w: the network %q has no MAC address", ErrDocument, name)
		}
	}
	return &document, nil
}

// WithAddresses returns the document with the MAC addresses of the interfaces of a VM, by name. A
// network of which the VM has no interface gets none, and no agent takes it on.
func (d *Document) WithAddresses(macs map[string]string) *Document {
	if d == nil || len(d.Networks) == 0 {
		return d
	}
	copied := *d
	copied.Networks = maps.Clone(d.Networks)
	for name, n := range d.Networks {
		n.MAC = macs[name]
		copied.Networks[name] = n
	}
	return &copied
}

// WithoutAddresses returns the document as a configuration has it: without MAC addresses. It leaves
// out networks of interfaces that the VM does not have with these MAC addresses.
func (d *Document) WithoutAddresses(macs map[string]string) *Document {
	if d == nil || len(d.Networks) == 0 {
		return d
	}
	copied := *d
	copied.Networks = map[string]Network{}
	for name, n := range d.Networks {
		if mac := n.MAC; mac != "" && macs[name] == mac {
			n.MAC = ""
			copied.Networks[name] = n
		}
	}
	return &copied
}

// Secrets are the contents of the secret files of a document, by path. They are in no form of text, so that none can be
// logged or stored by mistake.
type Secrets map[string][]byte

// String implements fmt.Stringer.
func (s Secrets) String() string { return fmt.Sprintf("%d secrets", len(s)) }

// GoString implements fmt.GoStringer.
func (s Secrets) GoString() string { return s.String() }

// MarshalJSON implements json.Marshaler.
func (s Secrets) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// Check checks that there is a secret for each secret file of a document and for nothing else.
func (s Secrets) Check(d *Document) error {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if !d.Files[name].Secret {
			return fmt.Errorf("%w: a secret for %q, which is no secret file", ErrDocument, name)
		}
		size += len(s[name])
	}
	if size > MaxSecrets {
		return fmt.Errorf("%w: the secrets have %d bytes, and %d are allowed", ErrTooLarge, size, MaxSecrets)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		if _, given := s[name]; d.Files[name].Secret && !given {
			return fmt.Errorf("%w: the secret content of %q is missing", ErrDocument, name)
		}
	}
	return nil
}

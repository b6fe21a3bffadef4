package rootfs

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A Secret is a file that a package's script, or whatever else made the tree, has made and that must not be shared by
// all VMs: a private key, a password, a random seed. Its content is never reported.
type Secret struct {
	// Path is relative to the root, as in tree.Entry.
	Path string
	// What it is: "private key".
	What string
	// Made is true if each VM makes its own at boot.
	Made bool
}

// secretHead is how much of a file is looked at, in bytes. Keys are far smaller.
const secretHead = 64 << 10

// maxList bounds a list of files of dpkg, in bytes.
const maxList = 64 << 20

// notScanned are directories that a release does not share, or whose files cannot be secrets of a script.
var notScanned = []string{"boot", "dev", "proc", "sys", "run", "tmp", "var/tmp", "var/log", "var/cache", "var/lib/apt",
	debianDpkg, sysimageDpkg}

// accountSecrets are files with passwords that are handled by themselves: those of accounts.
var accountSecrets = []string{"etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-"}

// searched are the directories in which secrets are looked for if it is not known what packages ship.
var searched = []string{"etc", "var", "root", "home", "srv"}

// findSecrets looks for secrets in files that no package ships. Without a list of such files, it
// looks in the directories in searched. sharedPaths are paths that are to be shared nevertheless.
func findSecrets(t *tree.Tree, sharedPaths []string) ([]Secret, error) {
	shared := make(map[string]bool, len(sharedPaths))
	for _, p := range sharedPaths {
		shared[p] = true
	}
	shipped, known, err := shippedFiles(t)
	if err != nil {
		return nil, err
	}
	s := &secretScan{tree: t, gone: map[string]bool{}}
	for i := range t.Entries {
		e := &t.Entries[i]
		if e.Type != tree.Regular || shipped[e.Path] || shared["/"+e.Path] ||
			slices.Contains(accountSecrets, e.Path) || fateOf(*e) != keep {
			continue
		}
		if !known && !slices.ContainsFunc(searched, func(dir string) bool { return below(e.Path, dir) }) ||
			slices.ContainsFunc(notScanned, func(dir string) bool { return below(e.Path, dir) }) {
			continue
		}
		head, err := s.head(e)
		if err != nil {
			return nil, fmt.Errorf("look for secrets: /%s: %w", e.Path, err)
		}
		if what := secretIn(e, head); what != "" {
			s.add(e.Path, what)
			s.keys = append(s.keys, publicKeys(head)...)
		} else if strings.HasPrefix(e.Path, "etc/") || strings.HasPrefix(e.Path, "var/") {
			s.public = append(s.public, publicFile{e.Path, certificates(head)})
		}
	}
	s.addPublic(shared)
	s.addLinks(shipped, shared)
	slices.SortFunc(s.found, func(a, b Secret) int { return tree.Compare(a.Path, b.Path) })
	return s.found, nil
}

// secretScan is a search for secrets.
type secretScan struct {
	tree  *tree.Tree
	found []Secret
	gone  map[string]bool
	// keys are the public keys of the private keys that were found.
	keys   []crypto.PublicKey
	public []publicFile
}

// publicFile is a file with certificates.
type publicFile struct {
	path string
	keys []crypto.PublicKey
}

func (s *secretScan) add(p, what string) {
	s.found = append(s.found, Secret{Path: p, What: what})
	s.gone[p] = true
}

func (s *secretScan) head(e *tree.Entry) (_ []byte, err error) {
	file, err := s.tree.Content.Open(e.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return io.ReadAll(io.LimitReader(file, secretHead))
}

// addPublic adds what belongs to a private key and is of no use without it: its certificate, and the public half of an
// SSH key.
func (s *secretScan) addPublic(shared map[string]bool) {
	for _, file := range s.public {
		if shared["/"+file.path] {
			continue
		}
		private, isPublicHalf := strings.CutSuffix(file.path, ".pub")
		belongs := isPublicHalf && s.gone[private] || slices.ContainsFunc(file.keys, func(key crypto.PublicKey) bool {
			return slices.ContainsFunc(s.keys, func(other crypto.PublicKey) bool { return equalKeys(key, other) })
		})
		if belongs {
			s.add(file.path, "certificate or public key of a private key that is left out")
		}
	}
}

// addLinks adds symbolic links to certificates that are left out, such as those that are named after a hash. A link
// that a service is configured with stays: each VM may make what it leads to.
func (s *secretScan) addLinks(shipped, shared map[string]bool) {
	for i := range s.tree.Entries {
		e := &s.tree.Entries[i]
		if e.Type != tree.Symlink || shipped[e.Path] || shared["/"+e.Path] || path.Dir(e.Path) != "etc/ssl/certs" {
			continue
		}
		if s.gone[path.Join(path.Dir(e.Path), e.Link)] || s.gone[strings.TrimPrefix(e.Link, "/")] {
			s.add(e.Path, "link to a certificate that is left out")
		}
	}
}

// The forms in which secrets are written.
var (
	keyStart  = regexp.MustCompile(`(?m)^(?:\x{feff})?` + plain.KeyStart)
	tunnelKey = regexp.MustCompile(`(?mi)^\s*(PrivateKey|PresharedKey)\s*=\s*[A-Za-z0-9+/]{43}=`)
	quotedKey = regexp.MustCompile(`(?m)(?:^|[\s{;])secret\s+"[A-Za-z0-9+/=]{16,}"`)
	// A setting of a configuration, or of a program that is one: password = x, $cfg['secret'] = 'x',
	// "jwtSecret": "x". A setting that only begins with such a word is none: token_endpoint = x, password_file = x.
	password = regexp.MustCompile(
		`(?i)(?:^|[\s{(,;])[$\w.\[\]'"-]*(?:pass|passwd|password|secret|token|(?:api|des|secret|private)_?key)(?:_?key)?(?:_base)?['"\]]*\s*(?:=>?|:)\s*["']?[^\s"'<>{}$=]{8,}`)
	// A password as it is saved (crypt(5)), of a user of a web server.
	savedPassword = regexp.MustCompile(`(?m)^[^:\s]+:(?:\$(?:apr1|1|2[aby]|5|6|y|7)\$|\{SHA\})`)
	singleWord    = regexp.MustCompile(`^[A-Za-z0-9+/=_.:-]{20,}$`)
	// The names of files that have nothing but secrets.
	secretName = regexp.MustCompile(`(?i)(?:secrets?|passwd|passwords?|pgpass|cookie|credentials?)$`)
)

// comments are how lines begin that a program does not read.
var comments = []string{"#", ";", "//", "--", "*", "/*", "!"}

// settings are the lines of a text that are neither empty nor comments.
func settings(text []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for line := range bytes.Lines(text) {
			line = bytes.TrimSpace(line)
			comment := slices.ContainsFunc(comments,
				func(start string) bool { return bytes.HasPrefix(line, []byte(start)) })
			if len(line) > 0 && !comment && !yield(line) {
				return
			}
		}
	}
}

// setsPassword reports whether a line of a text sets a password.
func setsPassword(text []byte) bool {
	for line := range settings(text) {
		if password.Match(line) {
			return true
		}
	}
	return false
}

// says reports whether a text has more than comments.
func says(text []byte) bool {
	for range settings(text) {
		return true
	}
	return false
}

// knownFormats are the first bytes of binary files that are no seeds.
var knownFormats = []string{"\x1f\x8b", "SQLite format 3", "\x7fELF", "\xfd7zXZ", "\x28\xb5\x2f\xfd", "BZh",
	"PK\x03\x04", "\x89PNG", "GDBM", "\x13\x57\x9a\xce"}

// secretIn returns what kind of secret a file is, "" if it is none.
func secretIn(e *tree.Entry, head []byte) string {
	private := e.Mode&0o007 == 0 // others cannot read it
	small := e.Size >= 16 && e.Size <= 4096
	state := below(e.Path, "etc") || below(e.Path, "var") || below(e.Path, "root")
	switch {
	case keyStart.Match(head), isDERKey(head):
		return "private key"
	case isKeyStore(head):
		return "key store with a private key"
	case tunnelKey.Match(head):
		return "key of a tunnel"
	case quotedKey.Match(head):
		return "shared secret"
	case e.Path == iscsiName && bytes.Contains(head, []byte("\nInitiatorName=")):
		return "name of one machine"
	case below(e.Path, "var/lib/samba/private"):
		return "database of secrets"
	case !private || !state:
		return ""
	case strings.HasSuffix(e.Path, ".key") && e.Size > 0:
		return "key"
	case setsPassword(head), savedPassword.Match(head),
		secretName.MatchString(e.Path) && utf8.Valid(head) && says(head):
		return "password"
	case small && singleWord.Match(bytes.TrimSpace(head)) && entropy(bytes.TrimSpace(head)) > 3.5:
		return "random text"
	case small && isRandom(head):
		return "random bytes"
	}
	return ""
}

// isDERKey reports whether a file is a private key in DER, as RFC 5208, RFC 8017 or RFC 5915 have it.
func isDERKey(data []byte) bool {
	return len(data) > 2 && data[0] == 0x30 && privateKey(data) != nil
}

// privateKey decodes a private key in DER, nil if it is none.
func privateKey(der []byte) any {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key
	}
	return nil
}

// isKeyStore reports whether a file is a key store of Java, or one of RFC 7292 (PKCS #12), that has a private key. Most
// stores have only the certificates of authorities.
func isKeyStore(data []byte) bool {
	const jks, jceks, privateEntry, trustedEntry = 0xfeedfeed, 0xcececece, 1, 2
	if len(data) < 12 {
		return false
	}
	magic := binary.BigEndian.Uint32(data)
	if magic != jks && magic != jceks {
		// The object identifier of a bag with an encrypted key, 1.2.840.113549.1.12.10.1.2, or with a plain one, ….1.
		bag := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01}
		at := bytes.Index(data, bag)
		return data[0] == 0x30 && at >= 0 && at+len(bag) < len(data) &&
			(data[at+len(bag)] == 1 || data[at+len(bag)] == 2)
	}
	rest := data[12:]
	text := func() bool { // modified UTF-8 with a length of two bytes
		if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
			return false
		}
		rest = rest[2+int(binary.BigEndian.Uint16(rest)):]
		return true
	}
	for len(rest) >= 4 {
		tag := binary.BigEndian.Uint32(rest)
		if rest = rest[4:]; tag != trustedEntry {
			return tag >= privateEntry && tag <= 3
		}
		if !text() || len(rest) < 8 {
			return false
		}
		if rest = rest[8:]; !text() || len(rest) < 4 {
			return false
		}
		size := int64(binary.BigEndian.Uint32(rest))
		if rest = rest[4:]; int64(len(rest)) < size {
			return false
		}
		rest = rest[size:]
	}
	return false
}

// entropy is the entropy of the bytes, in bits for each.
func entropy(data []byte) float64 {
	var counts [256]int
	for _, b := range data {
		counts[b]++
	}
	sum := 0.0
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(len(data))
			sum -= p * math.Log2(p)
		}
	}
	return sum
}

// fewBytes are so few that bytes which were drawn at random may have any distribution. They are no text, though.
const fewBytes = 64

// isRandom reports whether bytes look drawn at random: of all values alike, half of them outside of ASCII.
func isRandom(data []byte) bool {
	if slices.ContainsFunc(knownFormats, func(magic string) bool { return bytes.HasPrefix(data, []byte(magic)) }) {
		return false
	}
	if len(data) <= fewBytes { // too few to count
		return !utf8.Valid(data)
	}
	high := 0
	for _, b := range data {
		if b >= 0x80 {
			high++
		}
	}
	share := float64(high) / float64(len(data))
	return share > 0.25 && share < 0.75 && entropy(data) > 0.85*math.Log2(min(256, float64(len(data))))
}

// publicKeys returns the public keys of the private keys in a file.
func publicKeys(data []byte) (keys []crypto.PublicKey) {
	add := func(der []byte) {
		if key, ok := privateKey(der).(interface{ Public() crypto.PublicKey }); ok {
			keys = append(keys, key.Public())
		}
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		add(block.Bytes)
	}
	add(data)
	return keys
}

// certificates returns the public keys of the certificates in a file, and of public keys as such.
func certificates(data []byte) (keys []crypto.PublicKey) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			keys = append(keys, certificate.PublicKey)
		} else if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			keys = append(keys, key)
		}
	}
	if certificate, err := x509.ParseCertificate(data); err == nil {
		keys = append(keys, certificate.PublicKey)
	}
	return keys
}

func equalKeys(a, b crypto.PublicKey) bool {
	comparable, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && comparable.Equal(b)
}

// shippedFiles returns the paths that packages ship, from dpkg's lists (dpkg-query(1), --listfiles). known is false if
// the tree has no such lists.
func shippedFiles(t *tree.Tree) (shipped map[string]bool, known bool, err error) {
	shipped = map[string]bool{}
	for i := range t.Entries {
		e := &t.Entries[i]
		isList := strings.HasSuffix(e.Path, ".list") &&
			(path.Dir(e.Path) == debianDpkg+"/info" || path.Dir(e.Path) == sysimageDpkg+"/info")
		if !isList || e.Type != tree.Regular {
			continue
		}
		data, err := t.ReadFile(e.Path, maxList)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("look for secrets: read which files packages ship: %w", err)
		}
		known = true
		for line := range strings.Lines(string(data)) {
			name := strings.TrimPrefix(strings.TrimSpace(line), "/")
			shipped[name] = true
			// Packages may ship files in /bin, /lib and /sbin, which are links to directories of /usr.
			if top, _, _ := strings.Cut(name, "/"); top == "bin" || top == "sbin" || strings.HasPrefix(top, "lib") {
				shipped["usr/"+name] = true
			}
		}
	}
	return shipped, known, nil
}

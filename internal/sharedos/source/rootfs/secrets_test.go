package rootfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// keyPair makes a private key and a certificate for it, as PEM, and the key as DER.
func keyPair(t *testing.T) (key, certificate, der string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	sourcetest.Must(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	sourcetest.Must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "builder"},
		NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	sourcetest.Must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})), string(encoded)
}

// private is a file that others cannot read.
type private string

// tarOf is a stream of a system with further files; private ones have the mode 0600, the others 0644.
func tarOf(t *testing.T, system sourcetest.System, more map[string]any) []byte {
	t.Helper()
	stream, err := system.Tar()
	sourcetest.Must(t, err)
	out := bytes.NewBuffer(bytes.TrimRight(stream, "\x00"))
	for out.Len()%512 != 0 {
		out.WriteByte(0)
	}
	w := tar.NewWriter(out)
	for _, name := range slices.Sorted(maps.Keys(more)) {
		header := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}
		text := ""
		switch content := more[name].(type) {
		case private:
			header.Mode, text = 0o600, string(content)
		case string:
			text = content
		}
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			header.Typeflag, header.Linkname, text = tar.TypeSymlink, target, ""
		}
		header.Size = int64(len(text))
		sourcetest.Must(t, w.WriteHeader(header))
		_, err := io.WriteString(w, text)
		sourcetest.Must(t, err)
	}
	sourcetest.Must(t, w.Close())
	return out.Bytes()
}

// stream is a source of one tar stream.
type stream []byte

func (s stream) Open(context.Context, source.Progress) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s)), nil
}
func (s stream) Fingerprint(context.Context) (string, error) { return "one", nil }

func readWith(t *testing.T, data []byte, shared ...string) *rootfs.System {
	t.Helper()
	read, err := rootfs.Read(t.Context(), stream(data), t.TempDir(), func(string, int64, int64) {}, shared...)
	sourcetest.Must(t, err)
	t.Cleanup(func() { sourcetest.Must(t, read.Close()) })
	return read
}

func random(n int) string {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	return string(data)
}

// keyStore is a key store of Java with one entry: 1 is a private key, 2 a trusted certificate.
func keyStore(tag uint32) string {
	data := binary.BigEndian.AppendUint32(nil, 0xfeedfeed)
	data = binary.BigEndian.AppendUint32(data, 2)
	data = binary.BigEndian.AppendUint32(data, 1)
	data = binary.BigEndian.AppendUint32(data, tag)
	data = append(binary.BigEndian.AppendUint16(data, 1), 'a')
	data = append(data, make([]byte, 8)...)
	data = append(binary.BigEndian.AppendUint16(data, 5), "X.509"...)
	return string(append(binary.BigEndian.AppendUint32(data, 3), 1, 2, 3))
}

func TestSecretsThatABuildMakesAreLeftOut(t *testing.T) {
	key, certificate, der := keyPair(t)
	otherKey, otherCertificate, _ := keyPair(t)
	word := base64.StdEncoding.EncodeToString([]byte(random(32)))
	secrets := map[string]any{
		"etc/app/tls.pem":   key,
		"etc/app/tls.crt":   certificate,
		"etc/app/both.pem":  "a comment\n" + otherCertificate + otherKey,
		"etc/app/der":       der,
		"etc/app/store.jks": keyStore(1),
		"etc/app/store.p12": "\x30\x82\x01\x00\x02\x01\x03" +
			"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x02" + "rest of the store",
		"etc/wireguard/wg0.conf":           "[Interface]\nPrivateKey = " + word + "\n",
		"etc/systemd/network/90-wg.netdev": "[WireGuard]\nPrivateKey=" + word + "\n",
		"etc/app/rndc.conf":                "key \"k\" {\n\tsecret \"" + word + "\";\n};\n",
		"etc/app/named.key":                private("short"),
		"etc/app/client.cnf":               private("[client]\npassword = gooGhu7wahch\n"),
		"etc/dbconfig-common/app.conf":     private("dbc_dbuser='app'\ndbc_dbpass='gooGhu7wahch'\n"),
		"etc/app/token":                    private(word + "\n"),
		"etc/app/config-db.php":            private("<?php\n$dbuser='app';\n$dbpass='gooGhu7wahch';\n"),
		"etc/app/config.inc.php":           private("<?php\n$config['des_key'] = 'gooGhu7wahch';\n"),
		"var/lib/app/secret.inc.php":       private("<?php\n$cfg['blowfish_secret'] = 'gooGhu7wahch';\n"),
		"etc/app/settings.py":              private("SECRET_KEY = 'gooGhu7wahch'\n"),
		"etc/app/base.yml":                 private("production:\n  secret_key_base: gooGhu7wahch\n"),
		"etc/app/app.json":                 private("{\"port\": 1, \"jwtSecret\": \"gooGhu7wahch\"}\n"),
		"etc/app/one-line.conf": private(
			"key x { algorithm hmac-sha256; secret \"abcdefghijklmnop0123=\"; };\n"),
		"etc/app/htpasswd-of-it": private("admin:$apr1$abcdefgh$abcdefghijklmnopqrstuv\n"),
		"etc/ppp/chap-secrets":   private("# client server secret\nclient server gooGhu7wahch *\n"),
		"etc/app/ta":             "-----BEGIN OpenVPN Static key V1-----\n00ff\n-----END OpenVPN Static key V1-----\n",
		"etc/app/marked.pem":     "\xef\xbb\xbf-----BEGIN PRIVATE KEY-----\nAAAA\n",
		"etc/app/putty":          "PuTTY-User-Key-File-3: ssh-ed25519\n",
		"etc/app/age":            "AGE-SECRET-KEY-1QQQQ\n",
		"etc/app/few":            private("\x00\x12\x80" + strings.Repeat("\xff", 13)),
		"root/.my.cnf":           private("[client]\npassword=gooGhu7wahch\n"),
		"root/.erlang.cookie":    private("ABCDEFGHIJKLMNOPQRST"),
		"etc/iscsi/initiatorname.iscsi": private(
			"## of this machine\nInitiatorName=iqn.1993-08.org.debian:01:abcdef123456\n"),
		"etc/munge/munge.key":               private(random(128)),
		"var/lib/app/seed":                  private(random(512)),
		"var/lib/samba/private/secrets.tdb": "TDB file\n",
		"root/.ssh/id_ed25519": private(
			"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"),
		"usr/lib/app/build.key":    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
		"etc/ssl/certs/snake.pem":  certificate,
		"etc/ssl/certs/0123abcd.0": "-> snake.pem",
		"etc/app/ssh": private(
			"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"),
		"etc/app/ssh.pub": "ssh-rsa AAAA",
	}
	_, strangersCertificate, _ := keyPair(t)
	shipped, _, _ := keyPair(t)
	public := map[string]any{
		"etc/app/shipped.pem":         private(shipped),
		"etc/ssl/certs/authority.pem": strangersCertificate,
		"etc/ssl/certs/4567abcd.0":    "-> authority.pem",
		"etc/app/trust.jks":           keyStore(2),
		"etc/app/readable":            random(512),
		"etc/app/no-secrets":          private("# client server secret\n\n; password = gooGhu7wahch\n"),
		"etc/app/endpoint":            private("token_endpoint: https://idp.example.com/token\npassword_file = /etc/app/file\n"),
		"etc/app/names":               private("the secret of a name: none\nkey = value-of-it\n"),
		"etc/app/config":              private("port = 80\n# password = an example\npassword = {{ password }}\n"),
		"etc/app/archive.gz":          private("\x1f\x8b" + random(512)),
		"var/lib/app/state":           private(strings.Repeat("state of a program ", 20)),
		"etc/shadow":                  private("root:$y$j9T$" + word + ":1::::::\n"),
		"etc/app/empty.key":           private(""),
		"usr/share/doc/app/key.txt":   "the file starts with -----BEGIN PRIVATE KEY-----\n",
		"var/cache/app/index":         private(random(512)),
		"var/lib/dpkg/info/app.list":  "/.\n/etc\n/etc/app/shipped.pem\n/lib/app/x.pem\n",
		"usr/lib/app/x.pem":           private(shipped),
	}
	all := maps.Clone(secrets)
	maps.Copy(all, public)
	read := readWith(t, tarOf(t, sourcetest.NewSystem("6.12.1"), all))
	var found []string
	for _, s := range read.Secrets {
		if s.What == "" {
			t.Errorf("%s is nothing", s.Path)
		}
		found = append(found, s.Path)
	}
	slices.Sort(found)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(secrets)), found); diff != "" {
		t.Errorf("secrets (want -, got +):\n%s", diff)
	}
	for name := range all {
		name := strings.Replace(name, "var/lib/dpkg", "usr/lib/sysimage/dpkg", 1)
		if _, is := read.Tree.Lookup(name); is != (public[name] != nil || strings.HasPrefix(name, "usr/lib/sysimage")) {
			t.Errorf("%s is in the release: %v", name, is)
		}
	}
	for _, line := range rootfs.SecretsText(read.Secrets) {
		if strings.Contains(line, word) || strings.Contains(line, "gooGhu7wahch") {
			t.Errorf("it says the secret: %q", line)
		}
	}
}

// Without the lists of a package manager, a key below /usr is as likely one that the OS ships.
func TestWithoutListsOfPackagesOnlyEtcAndVarAreSearched(t *testing.T) {
	key, _, _ := keyPair(t)
	read := readWith(t, tarOf(t, sourcetest.NewSystem("6.12.1"),
		map[string]any{"usr/lib/app/x.pem": key, "etc/x.pem": key, "var/lib/x.pem": key}))
	var found []string
	for _, s := range read.Secrets {
		found = append(found, s.Path)
	}
	if want := []string{"etc/x.pem", "var/lib/x.pem"}; !slices.Equal(found, want) {
		t.Errorf("found %v, want %v", found, want)
	}
}

func TestAFileThatIsNoSecretCanBeShared(t *testing.T) {
	key, certificate, _ := keyPair(t)
	files := map[string]any{"etc/x.pem": key, "etc/x.crt": certificate, "etc/y.pem": key}
	read := readWith(t, tarOf(t, sourcetest.NewSystem("6.12.1"), files), "/etc/x.pem", "/etc/x.crt")
	if len(read.Secrets) != 1 || read.Secrets[0].Path != "etc/y.pem" {
		t.Errorf("found %+v", read.Secrets)
	}
	if _, is := read.Tree.Lookup("etc/x.pem"); !is {
		t.Error("it is not in the release")
	}
}

// What a package can make again is made in each VM, with the owner and the mode that it had.
func TestEachVMMakesItsOwnWherePackagesHaveAWay(t *testing.T) {
	key, certificate, _ := keyPair(t)
	files := map[string]any{
		"etc/ssl/private/ssl-cert-snakeoil.key": private(key), "etc/ssl/certs/ssl-cert-snakeoil.pem": certificate,
		"etc/ssl/certs/01234567.0": "-> ssl-cert-snakeoil.pem", "usr/sbin/make-ssl-cert": "#!/bin/sh",
		"etc/bind/rndc.key": private("key \"rndc-key\" {\n secret \"MDEyMzQ1Njc4OWFiY2RlZg==\";\n};\n"),
	}
	read := readWith(t, tarOf(t, sourcetest.NewSystem("6.12.1"), files))
	made := map[string]bool{}
	for _, s := range read.Secrets {
		made[s.Path] = s.Made
	}
	want := map[string]bool{
		"etc/ssl/private/ssl-cert-snakeoil.key": true, "etc/ssl/certs/ssl-cert-snakeoil.pem": true,
		"etc/ssl/certs/01234567.0": true,
		"etc/bind/rndc.key":        false, // the system has no rndc-confgen
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	const unit = "usr/lib/systemd/system/sharedos-secret-ssl-cert.service"
	text, err := read.Tree.ReadFile(unit, 4096)
	sourcetest.Must(t, err)
	for _, line := range []string{
		"ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key",
		"ExecStart=/usr/sbin/make-ssl-cert generate-default-snakeoil",
		"ExecStartPost=/usr/bin/chown root:root /etc/ssl/private/ssl-cert-snakeoil.key",
		"ExecStartPost=/usr/bin/chmod 0600 /etc/ssl/private/ssl-cert-snakeoil.key",
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("the unit lacks %q:\n%s", line, text)
		}
	}
	if link, is := read.Tree.Lookup("usr/lib/systemd/system/sysinit.target.wants/sharedos-secret-ssl-cert.service"); !is || link.Link != "../sharedos-secret-ssl-cert.service" {
		t.Errorf("nothing starts it: %+v", link)
	}
	if diff := cmp.Diff(sourcetest.Describe(t, read.Tree),
		sourcetest.Describe(t, readWith(t, tarOf(t, sourcetest.NewSystem("6.12.1"), files)).Tree)); diff != "" {
		t.Errorf("another build differs:\n%s", diff)
	}
}

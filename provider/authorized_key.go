package provider

import (
	"strings"

	"golang.org/x/crypto/ssh"
)

// trimKey removes what a file has around a key: the line end, and spaces.
func trimKey(text string) string { return strings.TrimSpace(text) }

// authorizedKey parses one line of an authorized_keys file (sshd(8), "AUTHORIZED_KEYS FILE FORMAT") and returns it
// without its line end. Its error does not quote the line, which may be a private key.
func authorizedKey(text string) (string, error) {
	line := trimKey(text)
	switch {
	case line == "":
		return "", &reasonError{"it is empty"}
	case strings.Contains(line, "PRIVATE KEY-----") || strings.HasPrefix(line, "PuTTY-User-Key-File"):
		return "", &reasonError{"it is a private key: treat it as known to others if this text went elsewhere, and use the public key"}
	case strings.HasPrefix(line, "---- BEGIN SSH2 PUBLIC KEY"):
		return "", &reasonError{"it is a public key in the form of RFC 4716: convert it with: ssh-keygen -i -f FILE"}
	case strings.ContainsAny(line, "\r\n"):
		return "", &reasonError{"an authorized key is one line, and it has several: split a file of several keys with split()"}
	case strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		return "", &reasonError{"it has control characters"}
	case strings.HasPrefix(line, "#"):
		return "", &reasonError{"it is a comment"}
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", &reasonError{"it is not a key: its type or its body is missing or damaged, or they are of two kinds"}
	}
	if certificate, ok := key.(*ssh.Certificate); ok {
		return "", &reasonError{"it is a certificate (" + certificate.Type() +
			"): use the public key itself, or that of its " +
			"authority with the option cert-authority"}
	}
	return line, nil
}

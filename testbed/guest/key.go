package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshLimit bounds one command in a guest, or several in one login.
const sshLimit = 20 * time.Minute

// ErrLogin means that the guest did not accept the login, so the command did not run.
var ErrLogin = errors.New("no login")

// Key is an SSH key that guests accept.
type Key struct {
	private ed25519.PrivateKey
	signer  ssh.Signer
	// Authorized is the public half as OpenSSH writes it.
	Authorized string
}

// NewKey makes a key.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return &Key{private, signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}, nil
}

// WriteFile writes the private half to a file, as OpenSSH and Terraform read it.
func (k *Key) WriteFile(path string) error {
	block, err := ssh.MarshalPrivateKey(k.private, "")
	if err == nil {
		err = os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	return nil
}

// Run runs a command as root in the guest whose sshd is reached at address, and returns what it prints. If ctx has
// no deadline, sshLimit bounds the command. ErrLogin means that the command did not run.
func (k *Key) Run(ctx context.Context, address, command string, stdin io.Reader) (string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	client, err := k.login(ctx, address)
	if err != nil {
		return "", err
	}
	defer func() { _ = client.Close() }() // the command has ended
	return runIn(ctx, client, address, command, stdin)
}

// bounded is ctx with sshLimit, unless ctx has a deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, sshLimit)
}

// login connects to an sshd as root. The caller closes the client. Every error is an ErrLogin.
func (k *Key) login(ctx context.Context, address string) (*ssh.Client, error) {
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: reach sshd at %s: %w", ErrLogin, address, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // unblocks reads and writes
	defer stop()
	conn, channels, requests, err := ssh.NewClientConn(raw, address, &ssh.ClientConfig{
		User: "root",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(k.signer)},
		// What an emulated guest computes fastest; Debian's sshd knows all of it.
		Config:            ssh.Config{KeyExchanges: []string{ssh.KeyExchangeCurve25519}},
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		// This program made the guest, which answers on this machine's loopback.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w at %s: %w", ErrLogin, address, err), context.Cause(ctx), raw.Close())
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// runIn runs a command in a session of its own. When ctx is done, it closes the client. ErrLogin means that the
// command did not run.
func runIn(ctx context.Context, client *ssh.Client, address, command string, stdin io.Reader) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = client.Close() }) // unblocks reads and writes
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		return "", fmt.Errorf("%w: begin a session at %s: %w", ErrLogin, address, errors.Join(err, context.Cause(ctx)))
	}
	defer func() { _ = session.Close() }() // the command has ended
	var stderr, stdout bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &stdout, &stderr
	if err := session.Run(command); err != nil {
		return stdout.String(),
			fmt.Errorf("run %q in the guest at %s: %w: %s", command, address, errors.Join(err, context.Cause(ctx)),
				strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
)

var (
	// ErrPeerKey means that the peer has another key than the pinned one.
	ErrPeerKey = errors.New("the peer's key is not the one pinned")
	// ErrNoPeerKey means that the peer sent no Ed25519 key.
	ErrNoPeerKey = errors.New("the peer showed no Ed25519 key")
)

// Certificate wraps a key in a certificate, the only form in which TLS sends keys. Names and dates are fixed and never
// checked, because a guest's clock may be wrong.
func Certificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, 4.1.2.5: no well-defined end
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// ServerConfig is the configuration of the agent: TLS 1.3, and only clients with the key of an operator are accepted.
func ServerConfig(cert tls.Certificate, operators []ed25519.PublicKey) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		// There is no chain to verify. VerifyConnection verifies the key in every handshake, including resumed ones.
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			key, err := peerKey(state)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(operators, func(o ed25519.PublicKey) bool { return o.Equal(key) }) {
				return fmt.Errorf("operator: %w", ErrPeerKey)
			}
			return nil
		},
	}
}

// ClientConfig is the configuration of the provider. If pinned is nil, this is the first contact: any Ed25519 key is
// accepted, and the caller pins Agent.Key afterwards.
func ClientConfig(operator ed25519.PrivateKey, pinned ed25519.PublicKey) (*tls.Config, error) {
	cert, err := Certificate(operator)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{cert},
		InsecureSkipVerify: true, //nolint:gosec // the key is pinned in VerifyConnection; there is no chain to verify
		VerifyConnection: func(state tls.ConnectionState) error {
			key, err := peerKey(state)
			if err != nil {
				return err
			}
			if pinned != nil && !pinned.Equal(key) {
				return fmt.Errorf("agent: %w", ErrPeerKey)
			}
			return nil
		},
	}, nil
}

func peerKey(state tls.ConnectionState) (ed25519.PublicKey, error) {
	if len(state.PeerCertificates) == 0 {
		return nil, ErrNoPeerKey
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, ErrNoPeerKey
	}
	return key, nil
}

// Agent is a connection to one guest's agent.
type Agent struct {
	agentapi.AgentService
	// Key is the agent's key, which the handshake has proved. VerifyConnection runs before the proof, so it must not
	// pin a key.
	Key    ed25519.PublicKey
	client *ttrpc.Client
}

// Close closes the connection. Calls in progress fail.
func (a *Agent) Close() error { return a.client.Close() }

// Connect connects to the agent and verifies the keys of both sides. It ends with ctx.
func Connect(ctx context.Context, dialer Dialer, config *tls.Config) (*Agent, error) {
	raw, err := dialer.DialContext(ctx, agentapi.Port)
	if err != nil {
		return nil, err
	}
	conn, err := handshake(ctx, raw, config)
	if err != nil {
		return nil, err
	}
	key, err := peerKey(conn.ConnectionState())
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	client := ttrpc.NewClient(conn)
	return &Agent{AgentService: plainTexts{agentapi.NewAgentClient(client)}, Key: key, client: client}, nil
}

// handshakeError is an error of a handshake. It may quote what the guest has sent.
type handshakeError struct{ cause error }

func (e *handshakeError) Error() string { return plain.Line(e.cause.Error()) }
func (e *handshakeError) Unwrap() error { return e.cause }

func handshake(ctx context.Context, raw net.Conn, config *tls.Config) (*tls.Conn, error) {
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS with the agent: %w", &handshakeError{errors.Join(err, raw.Close())})
	}
	return conn, nil
}

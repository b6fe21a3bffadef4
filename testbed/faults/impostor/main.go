// Command impostor takes the place of the agent in a guest, with the agent's key and port, and misbehaves. Each
// connection gets the next of the ways that the arguments name, and all further connections get the last one.
//
//	impostor KEY OPERATOR WAY...
//
// KEY is the file of the agent's key. OPERATOR is the operator's public key in base64.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

var errUsage = errors.New("usage: impostor KEY OPERATOR WAY")

// request is how many bytes of a request are read before the answer.
const request = 4096

// ways are the ways to misbehave, by name. The handshake of the connection begins with its first read or write.
var ways = map[string]func(conn *tls.Conn) error{
	"is silent in the handshake":          func(conn *tls.Conn) error { return stay(conn.NetConn()) },
	"never answers":                       func(conn *tls.Conn) error { return stay(conn) },
	"closes the connection during a call": func(conn *tls.Conn) error { return answer(conn, nil) },
	"sends half a frame": func(conn *tls.Conn) error {
		return errors.Join(answer(conn, frame(1000, []byte("half"))), stay(conn))
	},
	"answers garbage": func(conn *tls.Conn) error {
		return errors.Join(answer(conn, frame(64, bytes.Repeat([]byte{0xff}, 64))), stay(conn))
	},
	"announces four gigabytes": func(conn *tls.Conn) error {
		err := answer(conn, frame(0xffffffff, nil))
		for chunk := make([]byte, 1<<20); err == nil; {
			_, err = conn.Write(chunk)
		}
		return err
	},
	"sends its answer byte by byte": func(conn *tls.Conn) error {
		err := answer(conn, nil)
		for i, message := 0, frame(1000, make([]byte, 1000)); err == nil && i < len(message); i++ {
			_, err = conn.Write(message[i : i+1])
			time.Sleep(20 * time.Millisecond)
		}
		return err
	},
}

// frame is a ttrpc response to the first call: a header with length, stream, type and flags, and
// the payload. The length may be wrong.
func frame(length uint32, payload []byte) []byte {
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), 1)
	return append(append(header, 2, 0), payload...)
}

// answer reads a request and writes an answer.
func answer(conn net.Conn, with []byte) error {
	_, err := conn.Read(make([]byte, request))
	if err == nil && len(with) > 0 {
		_, err = conn.Write(with)
	}
	return err
}

// stay sends nothing until the peer closes the connection.
func stay(conn net.Conn) error {
	_, err := io.Copy(io.Discard, conn)
	return err
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "impostor:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) < 3 {
		return errUsage
	}
	config, err := asAgent(arguments[0], arguments[1])
	if err != nil {
		return err
	}
	named := arguments[2:]
	for _, name := range named {
		if ways[name] == nil {
			return fmt.Errorf("%w: there is no way %q", errUsage, name)
		}
	}
	listener, err := transport.ListenVSock(agentapi.Port)
	if err != nil {
		return err
	}
	for {
		raw, err := listener.Accept()
		if err != nil {
			return err
		}
		name := named[0]
		if len(named) > 1 {
			named = named[1:]
		}
		go func() {
			err := ways[name](tls.Server(raw, config))
			fmt.Println(name, "ended:", errors.Join(err, raw.Close()))
		}()
	}
}

// asAgent is the TLS configuration of the agent whose key is in a file.
func asAgent(key, operator string) (*tls.Config, error) {
	text, err := os.ReadFile(key)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", key)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s contains a %T", key, parsed)
	}
	certificate, err := transport.Certificate(private)
	if err != nil {
		return nil, err
	}
	public, err := base64.StdEncoding.DecodeString(operator)
	if err != nil {
		return nil, err
	}
	return transport.ServerConfig(certificate, []ed25519.PublicKey{public}), nil
}

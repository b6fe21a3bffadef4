package live

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// maxStatusLine bounds what is read of an HTTP response, in bytes.
const maxStatusLine = 4 << 10

// ErrCheck means that a health check is not valid.
var ErrCheck = errors.New("not a health check")

// StateOf is what Health asks of systemd.
type StateOf interface {
	ActiveState(ctx context.Context, name string) (string, error)
}

// Health implements refresh.Health.
type Health struct{ Units StateOf }

// Check implements refresh.Health.
func (h Health) Check(ctx context.Context, check *agentapi.HealthCheck) error {
	switch kind := check.GetKind().(type) {
	case *agentapi.HealthCheck_Unit:
		state, err := h.Units.ActiveState(ctx, kind.Unit)
		if err == nil && state != "active" && state != "reloading" && state != "refreshing" {
			err = fmt.Errorf("%s is %s", kind.Unit, state)
		}
		return err
	case *agentapi.HealthCheck_Tcp:
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", kind.Tcp)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", kind.Tcp, err)
		}
		return conn.Close()
	case *agentapi.HealthCheck_Http:
		return checkHTTP(ctx, kind.Http)
	case *agentapi.HealthCheck_Command:
		_, err := units.Run(ctx, kind.Command.GetArgv()...)
		return err
	default:
		return fmt.Errorf("health check %q: %w: it has no kind", check.GetName(), ErrCheck)
	}
}

// checkHTTP requests a page and expects a status below 400. It speaks HTTP/1.1 itself (RFC 9112): net/http would add 2
// MiB to the agent, which takes memory in every VM.
func checkHTTP(ctx context.Context, address string) (err error) {
	target, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCheck, err)
	}
	port := target.Port()
	switch {
	case !loopback(target.Hostname()):
		return fmt.Errorf("%w: %s is not on the VM's own loopback", ErrCheck, address)
	case target.Scheme != "http" && target.Scheme != "https":
		return fmt.Errorf("%w: %s is neither http nor https", ErrCheck, address)
	case port == "" && target.Scheme == "http":
		port = "80"
	case port == "":
		port = "443"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(target.Hostname(), port))
	if err != nil {
		return fmt.Errorf("get %s: %w", address, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // makes every read and write fail
	defer func() {
		stop()
		if closing := conn.Close(); err == nil && closing != nil && target.Scheme == "http" {
			err = closing
		}
	}()
	if target.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: target.Hostname(),
			InsecureSkipVerify: true, //nolint:gosec // over loopback, to see that it answers
		})
	}
	if err := exchange(conn, target); err != nil {
		return fmt.Errorf("get %s: %w", address, errors.Join(err, ctx.Err()))
	}
	return nil
}

func exchange(conn net.Conn, target *url.URL) error {
	request := "GET " + target.RequestURI() + " HTTP/1.1\r\nHost: " + target.Host +
		"\r\nUser-Agent: sharedos\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxStatusLine)).ReadString('\n')
	if err != nil {
		return err
	}
	protocol, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	status, err := strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(protocol, "HTTP/1.") {
		return fmt.Errorf("the response is not HTTP: %.40q", line)
	}
	if status >= 400 || status < 100 {
		return fmt.Errorf("status %d", status)
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

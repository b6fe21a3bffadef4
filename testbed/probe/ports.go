package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ports hands out local ports in turn, so that one comes again as late as can be. Left to itself the kernel draws
// them at random; at 200 connections a second one comes again while the guest still holds the last connection from it
// in TIME_WAIT. The guest then answers the SYN with an acknowledgement of the old connection, QEMU's user network
// resets that and repeats its SYN after six seconds only, and the service looks as if it had been away all that time.
var ports struct {
	sync.Mutex
	first, last, next int
}

// maxPortTries bounds how many ports in a row may be in use by others.
const maxPortTries = 1000

func nextPort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.first == 0 {
		const file = "/proc/sys/net/ipv4/ip_local_port_range"
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		var first, last int
		if _, err := fmt.Sscan(string(text), &first, &last); err != nil || first < 1 || last < first {
			return 0, fmt.Errorf("%s: %q is no range of ports", file, text)
		}
		ports.first, ports.last, ports.next = first, last, first+os.Getpid()%(last-first+1)
	}
	port := ports.next
	if ports.next++; ports.next > ports.last {
		ports.next = ports.first
	}
	return port, nil
}

// dial connects from the next port of 127.0.0.1.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	reuse := func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		})
		return errors.Join(err, failed)
	}
	for range maxPortTries {
		port, err := nextPort()
		if err != nil {
			return nil, err
		}
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, Control: reuse}
		conn, err := dialer.DialContext(ctx, network, address)
		if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) {
			continue
		}
		return conn, err
	}
	return nil, fmt.Errorf("connect to %s: %d local ports in a row are in use", address, maxPortTries)
}

package service

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// notifyLimit bounds how long a message waits for room in the receiver's socket.
	notifyLimit = 5 * time.Second
	// barrierLimit bounds how long systemd takes to process a message: it may be reloading.
	barrierLimit = 30 * time.Second
)

// serviceManager is the socket of systemd, "" if it does not run this service.
func serviceManager() string { return os.Getenv("NOTIFY_SOCKET") }

// notify sends a message about this service to a socket (sd_notify(3)), together with open files. Without a socket it
// does nothing.
func notify(name, message string, files ...int) (err error) {
	if name == "" {
		return nil
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, unix.Close(socket)) }()
	limit := unix.NsecToTimeval(notifyLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fmt.Errorf("notify %s: %w", name, err)
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	if err := unix.Sendmsg(socket, []byte(message), rights, &unix.SockaddrUnix{Name: name}, 0); err != nil {
		return fmt.Errorf("notify %s: %w", name, err)
	}
	return nil
}

// notified waits until systemd has processed all earlier messages.
func notified() (err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, read.Close()) }()
	if err := errors.Join(notify(serviceManager(), "BARRIER=1", int(write.Fd())), write.Close()); err != nil {
		return err
	}
	if err := read.SetReadDeadline(time.Now().Add(barrierLimit)); err != nil {
		return err
	}
	// systemd closes its end of the pipe, which is the last one, when it processes the message.
	if _, err := read.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for systemd to process notifications: %w", err)
	}
	return nil
}

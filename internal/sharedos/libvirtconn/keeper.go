package libvirtconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// keeperScript waits in the background until it is told on descriptor 3 that the connection, which it has as another
// descriptor, is no longer needed. If it is not told, whoever could tell it is gone: then libvirt gets some time to do
// all that it was sent.
const keeperScript = `(read -r said <&3; [ "$said" = over ] || sleep 10) &`

// keeper is a process that holds a connection open when this one ends without warning. libvirtd 11.3 locks up for good,
// for everybody, when a client goes while packets of its stream wait to be written (the event loop takes a lock that it
// holds, in remoteClientCloseFunc), and a killed client must not take the host's libvirt with it.
type keeper struct{ tell *os.File }

// keep starts the keeper of a connection that nobody reads yet.
func keep(ctx context.Context, conn net.Conn) (_ *keeper, err error) {
	fail := func(err error) (*keeper, error) {
		return nil, fmt.Errorf("start the process that keeps the connection open if this one is killed: %w", err)
	}
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return fail(fmt.Errorf("a connection of type %T cannot be given to another process", conn))
	}
	held, err := local.File()
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	listen, tell, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", keeperScript)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{listen, held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt from the terminal is for this process
	if err := errors.Join(cmd.Run(), listen.Close(), nonblocking(local)); err != nil {
		return fail(errors.Join(err, tell.Close()))
	}
	return &keeper{tell}, nil
}

// nonblocking makes a connection again what Go needs it to be: giving a copy of it to a command makes both blocking.
func nonblocking(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = syscall.SetNonblock(int(fd), true) }); err != nil {
		return err
	}
	return set
}

// over lets the connection go.
func (k *keeper) over() error {
	_, err := k.tell.WriteString("over\n")
	if errors.Is(err, syscall.EPIPE) {
		err = nil // somebody ended it, and it was not needed
	}
	return errors.Join(err, k.tell.Close())
}

// abandon lets the connection go in some seconds, as if this process had ended.
func (k *keeper) abandon() error { return k.tell.Close() }

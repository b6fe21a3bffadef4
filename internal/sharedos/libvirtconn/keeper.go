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

// keeperScript runs in the background with the connection as a descriptor. It reads descriptor 3.
// If it reads "over", the connection is no longer needed. If it reads the end of the file, this
// process was killed, and libvirt gets some time to finish what it was sent.
const keeperScript = `(read -r said <&3; [ "$said" = over ] || sleep 10) &`

// keeper is a process that keeps a connection open if this process is killed. If a client closes
// its connection while packets of its stream are not written yet, libvirtd 11.3 blocks for good,
// for all clients: in remoteClientCloseFunc, the event loop takes a lock that it already holds.
type keeper struct{ control *os.File }

// keep starts the keeper of a connection, before anything is read from it.
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
	listen, control, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", keeperScript)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{listen, held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt from the terminal is for this process
	if err := errors.Join(cmd.Run(), listen.Close(), nonblocking(local)); err != nil {
		return fail(errors.Join(err, control.Close()))
	}
	return &keeper{control}, nil
}

// nonblocking makes a connection non-blocking again, as Go needs it. Passing a copy of it to a
// command makes both blocking.
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

// over ends the keeper, because the connection is no longer needed.
func (k *keeper) over() error {
	_, err := k.control.WriteString("over\n")
	if errors.Is(err, syscall.EPIPE) {
		err = nil // the keeper was killed, and is not needed any more
	}
	return errors.Join(err, k.control.Close())
}

// abandon makes the keeper close the connection in some seconds, as if this process had been killed.
func (k *keeper) abandon() error { return k.control.Close() }

package libvirtconn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket"
)

// A transfer has a connection of its own. It implements the stream protocol (libvirt, src/rpc/virnetprotocol.x and
// src/remote/remote_protocol.x) on go-libvirt's socket. The package comment says why.

// Numbers of the remote protocol.
const (
	remoteProgram = 0x20008086

	procConnectOpen     = 1
	procAuthList        = 66
	procAuthPolkit      = 70
	procStorageUpload   = 208
	procStorageDownload = 209

	authNone   = 0
	authPolkit = 2
)

// chunk is the size of a stream packet in bytes. Every version of libvirt accepts it
// (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX is 262120).
const chunk = 192 << 10

// grace is how long libvirt may take to end a stream after the context has ended. The connection is
// closed only then, because libvirtd 11.3 blocks for good if a client closes its connection while
// the daemon has to answer on a stream (see keeper).
const grace = 5 * time.Second

// maxEarly bounds how many packets of a stream may arrive before the reply to the call that opens it.
const maxEarly = 16

// stallTimeout bounds how long libvirt may take to accept or send the next part of a transfer.
const stallTimeout = 2 * time.Minute

// errContent is a failure to read the caller's content.
type errContent struct{ error }

func (e errContent) Unwrap() error { return e.error }

// Transfer runs fn with a connection for one stream after another. It ends with ctx. An answer of libvirt
// is a libvirt.Error, and no answer is ErrUnreachable. An error of a content's reader is wrapped.
func (c *Client) Transfer(ctx context.Context, what string, fn func(*Transfer) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := c.dial(dialing)
	if err != nil {
		return c.explain(ctx, what, err)
	}
	t := &Transfer{
		ctx:     ctx,
		conn:    &boundedConn{Conn: conn},
		answers: make(chan packet),
		over:    make(chan struct{}),
	}
	kept, err := keep(dialing, conn)
	if err != nil {
		return fmt.Errorf("%s: %w", what, errors.Join(err, conn.Close()))
	}
	t.socket = socket.New(opened{t.conn}, t)
	if err := t.socket.Connect(); err != nil {
		return c.explain(ctx, what, errors.Join(err, conn.Close(), kept.over()))
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-t.over:
		case <-timer.C:
			_ = conn.Close() // this makes every step fail
		}
	})
	err = t.connect(c.address.Driver)
	if err == nil {
		err = fn(t)
	}
	close(t.over)
	if !stop() {
		<-cut
	}
	if t.streaming {
		err = errors.Join(err, kept.abandon())
	} else {
		err = errors.Join(err, kept.over())
	}
	_ = conn.Close() // libvirt has confirmed the transfer, or it has failed
	<-t.socket.Disconnected()

	var answer libvirt.Error
	var content errContent
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, ctx.Err())
	case !errors.As(err, &content) && !errors.As(err, &answer) && ofConnection(err):
		return c.explain(ctx, what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// boundedConn is a connection whose reads and writes fail if they take too long.
type boundedConn struct {
	net.Conn
	mu sync.Mutex
	// refused is true if libvirt has refused what is written.
	refused bool
}

// refuse makes a write in progress fail, and all later ones.
func (b *boundedConn) refuse() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = true
	_ = b.SetWriteDeadline(time.Now()) // a connection without deadlines fails all writes
}

func (b *boundedConn) Read(p []byte) (int, error) {
	if err := b.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return b.Conn.Read(p)
}

func (b *boundedConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	limit := stallTimeout
	if b.refused {
		limit = 0
	}
	err := b.SetWriteDeadline(time.Now().Add(limit))
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return b.Conn.Write(p)
}

type packet struct {
	header  socket.Header
	payload []byte
}

// Transfer is a connection on which one stream runs at a time.
type Transfer struct {
	ctx     context.Context
	conn    *boundedConn
	socket  *socket.Socket
	answers chan packet
	// over is closed when nobody reads answers any more.
	over   chan struct{}
	serial int32
	proc   uint32
	// streaming is true while libvirt has not ended a stream of this connection.
	streaming bool
	// early are packets of the stream that arrived before the reply.
	early []packet
}

// Route implements socket.Router. It waits until the packet is read, which slows libvirt down if necessary.
func (t *Transfer) Route(header *socket.Header, payload []byte) {
	if header.Status == socket.StatusError {
		t.conn.refuse() // the goroutine that writes does not read
	}
	select {
	case t.answers <- packet{*header, payload}:
	case <-t.over:
	}
}

// next waits for the next packet of a kind (socket.Reply or socket.Stream) of the current call. Packets of
// a stream may arrive before the reply to the call that opens it, and are kept until they are asked for.
func (t *Transfer) next(kind uint32) (packet, error) {
	if kind == socket.Stream && len(t.early) > 0 {
		p := t.early[0]
		t.early = t.early[1:]
		return p, t.judge(p)
	}
	for {
		select {
		case p := <-t.answers:
			switch {
			case p.header.Program != remoteProgram || p.header.Serial != t.serial:
			// libvirt reports a failure to write a stream as an error of the call that opened it.
			case p.header.Type == kind || p.header.Type == socket.Reply && p.header.Status == socket.StatusError:
				return p, t.judge(p)
			case p.header.Type == socket.Stream:
				if len(t.early) >= maxEarly {
					return packet{}, errors.New("libvirt sends a stream without confirming that it is open")
				}
				t.early = append(t.early, p)
			}
		case <-t.socket.Disconnected():
			return packet{}, libvirt.ErrInterrupted
		}
	}
}

// judge returns the error in a packet, if there is one, and records the end of a stream.
func (t *Transfer) judge(p packet) error {
	if p.header.Status == socket.StatusError || p.header.Type == socket.Stream && p.header.Status == socket.StatusOK {
		t.streaming = false
	}
	if p.header.Status == socket.StatusError {
		return decodeError(p.payload)
	}
	return nil
}

func (t *Transfer) call(proc uint32, arguments []byte) ([]byte, error) {
	t.serial++
	t.proc = proc
	t.early = nil
	if err := t.socket.SendPacket(t.serial, proc, remoteProgram, arguments, socket.Call, socket.StatusOK); err != nil {
		return nil, err
	}
	p, err := t.next(socket.Reply)
	return p.payload, err
}

// connect authenticates and opens the driver, as every client must.
func (t *Transfer) connect(driver string) error {
	payload, err := t.call(procAuthList, nil)
	if err != nil {
		return err
	}
	var kinds []uint32
	for len(payload) >= 8 { // the count first, then the kinds
		payload = payload[4:]
		kinds = append(kinds, binary.BigEndian.Uint32(payload))
	}
	if len(kinds) > 0 && kinds[0] == authPolkit {
		if _, err := t.call(procAuthPolkit, nil); err != nil {
			return err
		}
	} else if len(kinds) > 0 && kinds[0] != authNone {
		return fmt.Errorf("libvirt asks for authentication of kind %d, which is not supported", kinds[0])
	}
	var arguments xdr
	arguments.uint32(1) // the optional name is there
	arguments.text(driver)
	arguments.uint32(0)
	_, err = t.call(procConnectOpen, arguments)
	return err
}

// Upload writes length bytes of r into a volume at an offset, and returns when libvirt has confirmed them.
func (t *Transfer) Upload(volume libvirt.StorageVol, offset, length int64, r io.Reader,
	progress func(sent int64)) error {
	if err := t.open(procStorageUpload, volume, offset, length); err != nil {
		return err
	}
	return t.send(r, length, progress)
}

// Download reads length bytes of a volume at an offset.
func (t *Transfer) Download(volume libvirt.StorageVol, offset, length int64) ([]byte, error) {
	if err := t.open(procStorageDownload, volume, offset, length); err != nil {
		return nil, err
	}
	return t.receive(length)
}

func (t *Transfer) open(proc uint32, volume libvirt.StorageVol, offset, length int64) error {
	var arguments xdr
	arguments.text(volume.Pool)
	arguments.text(volume.Name)
	arguments.text(volume.Key)
	arguments.uint64(uint64(offset))
	arguments.uint64(uint64(length))
	arguments.uint32(0)
	_, err := t.call(proc, arguments)
	t.streaming = err == nil
	return err
}

// send sends the content and waits until libvirt confirms that it is written.
func (t *Transfer) send(r io.Reader, length int64, progress func(sent int64)) error {
	buffer := make([]byte, min(chunk, length))
	for sent := int64(0); sent < length; {
		part := buffer[:min(chunk, length-sent)]
		if err := t.ctx.Err(); err != nil {
			return t.abort(err)
		}
		if _, err := io.ReadFull(r, part); err != nil {
			return t.abort(errContent{err})
		}
		select {
		case p := <-t.answers: // libvirt sends nothing during an upload except an error
			if err := t.judge(p); err != nil {
				return err
			}
		default:
		}
		if err := t.stream(part, socket.StatusContinue); err != nil {
			return t.refusal(err)
		}
		sent += int64(len(part))
		if progress != nil {
			progress(sent)
		}
	}
	if err := t.stream(nil, socket.StatusOK); err != nil {
		return t.refusal(err)
	}
	_, err := t.next(socket.Stream)
	return err
}

// refusal returns the error that libvirt sent before it closed the connection, or err if it sent none.
func (t *Transfer) refusal(err error) error {
	if _, answer := t.next(socket.Stream); answer != nil && !errors.Is(answer, libvirt.ErrInterrupted) {
		return answer
	}
	return err
}

// abort ends the stream because of err, and waits until libvirt has ended it too.
func (t *Transfer) abort(err error) error {
	if sent := t.stream(nil, socket.StatusError); sent != nil {
		return errors.Join(err, sent)
	}
	for {
		p, answer := t.next(socket.Stream)
		// Packets that libvirt has sent already still arrive. An error or a confirmation is the last one.
		if answer != nil || p.header.Status != socket.StatusContinue {
			return err
		}
	}
}

func (t *Transfer) stream(data []byte, status uint32) error {
	return t.socket.SendPacket(t.serial, t.proc, remoteProgram, data, socket.Stream, status)
}

func (t *Transfer) receive(length int64) ([]byte, error) {
	data := make([]byte, 0, length)
	for {
		p, err := t.next(socket.Stream)
		if err != nil {
			return nil, err
		}
		if err := t.ctx.Err(); err != nil && p.header.Status == socket.StatusContinue {
			return nil, t.abort(err)
		}
		if p.header.Status == socket.StatusContinue && len(p.payload) > 0 {
			if int64(len(data)+len(p.payload)) > length {
				return nil, t.abort(fmt.Errorf("libvirt sends more than the %d bytes that it was asked for", length))
			}
			data = append(data, p.payload...)
			continue
		}
		// An empty packet is the end of the stream. libvirt waits for an answer to it.
		if p.header.Status == socket.StatusContinue {
			if err := t.stream(nil, socket.StatusOK); err != nil {
				return nil, err
			}
			if _, err := t.next(socket.Stream); err != nil {
				return nil, err
			}
		}
		if int64(len(data)) != length {
			return nil, fmt.Errorf("libvirt sends %d of %d bytes: %w", len(data), length, io.ErrUnexpectedEOF)
		}
		return data, nil
	}
}

// xdr is a message in External Data Representation (RFC 4506).
type xdr []byte

func (x *xdr) uint32(v uint32) { *x = binary.BigEndian.AppendUint32(*x, v) }
func (x *xdr) uint64(v uint64) { *x = binary.BigEndian.AppendUint64(*x, v) }

func (x *xdr) text(s string) {
	x.uint32(uint32(len(s)))
	*x = append(*x, s...)
	for len(*x)%4 != 0 {
		*x = append(*x, 0)
	}
}

// decodeError reads a virNetMessageError: code, domain, and an optional message first.
func decodeError(payload []byte) error {
	malformed := fmt.Errorf("libvirt sends an error that cannot be read (%d bytes)", len(payload))
	if len(payload) < 12 {
		return malformed
	}
	answer := libvirt.Error{Code: binary.BigEndian.Uint32(payload)}
	if binary.BigEndian.Uint32(payload[8:]) != 0 {
		rest := payload[12:]
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return malformed
		}
		answer.Message = string(rest[4 : 4+binary.BigEndian.Uint32(rest)])
	}
	return answer
}

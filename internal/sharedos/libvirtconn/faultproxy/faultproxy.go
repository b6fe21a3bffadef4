// Package faultproxy is a proxy between a client and a real libvirt daemon. Tests use it to disturb their messages.
//
// The proxy only knows the framing of libvirt's RPC (src/rpc/virnetprotocol.x), not the content of
// messages. It shows each message to a Judge, which decides what happens to it.
package faultproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Side is the sender of a message.
type Side string

// The sides of a connection.
const (
	Client Side = "client"
	Daemon Side = "daemon"
)

// Kind is the type of a message (virNetMessageType).
type Kind uint32

// The types of message that matter here.
const (
	Call   Kind = 0
	Reply  Kind = 1
	Event  Kind = 2
	Stream Kind = 3
)

// Status is the status of a message (virNetMessageStatus).
type Status uint32

// The statuses of a message. Continue is of streams alone.
const (
	OK       Status = 0
	Error    Status = 1
	Continue Status = 2
)

// headerSize is the length of a message without content, in bytes.
const headerSize = 28

// maxMessage is the longest message that libvirt accepts, in bytes (VIR_NET_MESSAGE_MAX and its length).
const maxMessage = 32<<20 + 4

// Message is one message that the proxy has received.
type Message struct {
	// Index counts the messages of all connections, and Conn the connections, from 0.
	Index, Conn int
	From        Side
	Program     uint32
	Procedure   uint32
	Kind        Kind
	Serial      uint32
	Status      Status
	// Size of the whole message in bytes, with its header.
	Size int
}

// String describes a message for a test's log.
func (m Message) String() string {
	kind, known := map[Kind]string{Call: "call", Reply: "reply", Event: "event", Stream: "stream"}[m.Kind]
	if !known {
		kind = fmt.Sprintf("type %d", m.Kind)
	}
	status := map[Status]string{OK: "ok", Error: "error", Continue: "continue"}[m.Status]
	return fmt.Sprintf("message %d on connection %d: %s's %s %d/%d %s of %d bytes", m.Index, m.Conn, m.From, kind,
		m.Procedure, m.Serial, status, m.Size)
}

// Fate is what the proxy does with a message. The zero Fate passes it on.
type Fate struct {
	// Delay is how long the message waits first. Messages behind it wait, too.
	Delay time.Duration
	// Cut ends the connection after After bytes of the message: the client's half at once, and the daemon's half when
	// the daemon has had the time to act on the message (Linger).
	Cut   bool
	After int
	// Lose drops the message.
	Lose bool
	// Stall is how long the proxy then reads nothing from the sender.
	Stall time.Duration
	// Event inserts an event that the client has not asked for before a message of the daemon.
	Event bool
	// Fail is an error code (virErrorNumber), 0 for none. A call is answered with that error and does not reach the
	// daemon, an answer is replaced by it, and a stream ends with it on both sides.
	Fail uint32
}

// Linger is how long the daemon's half of a connection stays open after a cut. libvirtd locks up for good if its client
// disconnects while it still works on a stream (for that reason libvirtconn keeps such connections open).
const Linger = 200 * time.Millisecond

// Judge decides what happens to a message. It is called for one message at a time.
type Judge func(Message) Fate

// Proxy listens for clients of one daemon.
type Proxy struct {
	daemon, socket string
	listener       net.Listener
	wait           sync.WaitGroup

	mu     sync.Mutex
	judge  Judge
	seen   []Message
	conns  int
	open   map[net.Conn]bool
	closed bool
	// closing is closed when the proxy closes.
	closing chan struct{}
}

// Start listens on a unix socket until Close, and connects each client to the daemon's socket.
func Start(ctx context.Context, socket, daemon string) (*Proxy, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("start a proxy: %w", err)
	}
	p := &Proxy{daemon: daemon, socket: socket, listener: listener, open: map[net.Conn]bool{},
		closing: make(chan struct{})}
	p.wait.Go(func() { p.accept(ctx) })
	return p, nil
}

// URI is the libvirt connection URI of the daemon behind the proxy.
func (p *Proxy) URI() string { return "qemu:///system?socket=" + p.socket }

// Disturb forgets all messages seen so far, counts from 0 again, and sets the Judge. nil passes all messages on.
func (p *Proxy) Disturb(judge Judge) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judge, p.seen, p.conns = judge, nil, 0
}

// Seen returns the messages since Disturb was last called.
func (p *Proxy) Seen() []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Message(nil), p.seen...)
}

// Open returns the number of open connections of clients.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open) / 2 // each has its other half
}

// Close ends all connections and waits until all goroutines of the proxy have ended.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.mu.Lock()
	p.closed = true
	close(p.closing)
	for conn := range p.open {
		_ = conn.Close() // whoever reads from it notices
	}
	p.mu.Unlock()
	p.wait.Wait()
	if removed := os.Remove(p.socket); removed != nil && !errors.Is(removed, os.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}

func (p *Proxy) accept(ctx context.Context) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		var dialer net.Dialer
		daemon, err := dialer.DialContext(ctx, "unix", p.daemon)
		if err != nil {
			_ = client.Close() // as if nobody had listened
			continue
		}
		p.mu.Lock()
		c := &connection{proxy: p, number: p.conns, client: client, daemon: daemon, failed: map[uint32][]byte{},
			ended: make(chan struct{})}
		p.conns++
		p.open[client], p.open[daemon] = true, true
		closed := p.closed
		p.mu.Unlock()
		if closed {
			c.end()
		}
		p.wait.Go(func() { c.carry(Client, client, daemon) })
		p.wait.Go(func() { c.carry(Daemon, daemon, client) })
	}
}

// decide counts a message and asks the Judge.
func (p *Proxy) decide(m *Message) Fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.Index = len(p.seen)
	p.seen = append(p.seen, *m)
	if p.judge == nil {
		return Fate{}
	}
	return p.judge(*m)
}

// connection is one client's connection and the proxy's own to the daemon.
type connection struct {
	proxy          *Proxy
	number         int
	client, daemon net.Conn
	once           sync.Once
	ended          chan struct{}

	mu     sync.Mutex
	wasCut bool
	// failed are the streams that the proxy ends with an error, by serial. The value is the error
	// message that the client gets when the daemon has ended the stream, too, and nil after that.
	failed map[uint32][]byte
}

// end closes both halves.
func (c *connection) end() {
	c.once.Do(func() {
		close(c.ended)
		_, _ = c.client.Close(), c.daemon.Close() // there is nothing left to say
		c.proxy.mu.Lock()
		delete(c.proxy.open, c.client)
		delete(c.proxy.open, c.daemon)
		c.proxy.mu.Unlock()
	})
}

// cut ends the client's half at once, and the daemon's half after Linger.
func (c *connection) cut() {
	c.mu.Lock()
	c.wasCut = true
	c.mu.Unlock()
	_ = c.client.Close() // there is nothing left to say
	select {
	case <-time.After(Linger):
	case <-c.proxy.closing:
	}
	c.end()
}

func (c *connection) isCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wasCut
}

// carry passes messages from one side to the other until the connection ends.
func (c *connection) carry(from Side, source io.Reader, target io.Writer) {
	for {
		text, err := read(source)
		ended := err != nil
		if !ended {
			err = c.pass(from, text, target)
		}
		switch {
		case err == nil:
		case errors.Is(err, errCut):
			c.cut()
			return
		case from == Client && !ended: // the daemon does not listen any more, and may have said why
			return
		case c.isCut(): // who cut it ends it
			return
		default:
			c.end()
			return
		}
	}
}

var errCut = errors.New("the connection is cut")

// pass does what the Judge has decided about one message.
func (c *connection) pass(from Side, text []byte, target io.Writer) error {
	m := parse(text)
	m.From, m.Conn = from, c.number
	if mine, err := c.ofFailed(m); mine {
		return err
	}
	fate := c.proxy.decide(&m)
	if err := c.wait(fate.Delay); err != nil {
		return err
	}
	if fate.Event && from == Daemon {
		if _, err := target.Write(lifecycleEvent(text)); err != nil {
			return err
		}
	}
	var err error
	switch {
	case fate.Cut:
		_, _ = target.Write(text[:min(fate.After, len(text))]) // the end comes anyway
		return errCut
	case fate.Lose:
	case fate.Fail != 0:
		err = c.fail(m, text, fate.Fail)
	default:
		_, err = target.Write(text)
	}
	return errors.Join(err, c.wait(fate.Stall))
}

// wait waits, unless the connection ends.
func (c *connection) wait(length time.Duration) error {
	if length <= 0 {
		return nil
	}
	select {
	case <-time.After(length):
		return nil
	case <-c.ended:
		return net.ErrClosed
	case <-c.proxy.closing:
		return net.ErrClosed
	}
}

// ofFailed reports whether a message belongs to a stream that the proxy has ended. The client gets the error with the
// daemon's last message: if the client disconnected before, libvirtd would lock up.
func (c *connection) ofFailed(m Message) (bool, error) {
	c.mu.Lock()
	said, mine := c.failed[m.Serial]
	if mine = mine && m.Kind == Stream; !mine || m.From == Client || m.Status == Continue || said == nil {
		c.mu.Unlock()
		return mine, nil
	}
	c.failed[m.Serial] = nil
	c.mu.Unlock()
	_, err := c.client.Write(said)
	return true, err
}

// fail replaces a message by an error.
func (c *connection) fail(m Message, text []byte, code uint32) error {
	if m.Kind != Stream {
		_, err := c.client.Write(frame(text, Reply, Error, encodeError(code)))
		return err
	}
	said := frame(text, Stream, Error, encodeError(code))
	over := m.From == Daemon && m.Status != Continue
	c.mu.Lock()
	c.failed[m.Serial] = said
	if over {
		c.failed[m.Serial] = nil
	}
	c.mu.Unlock()
	if over {
		_, err := c.client.Write(said)
		return err
	}
	_, err := c.daemon.Write(frame(text, Stream, Error, nil))
	return err
}

// read reads one message.
func read(source io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(source, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size < headerSize || size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes is not libvirt's", size)
	}
	text := make([]byte, size)
	copy(text, length[:])
	_, err := io.ReadFull(source, text[4:])
	return text, err
}

func parse(text []byte) Message {
	word := func(i int) uint32 { return binary.BigEndian.Uint32(text[4*i:]) }
	return Message{
		Program: word(1), Procedure: word(3), Kind: Kind(word(4)), Serial: word(5),
		Status: Status(word(6)), Size: len(text),
	}
}

// frame makes a message with the program, procedure and serial of another one.
func frame(like []byte, kind Kind, status Status, payload []byte) []byte {
	text := append([]byte(nil), like[:headerSize]...)
	binary.BigEndian.PutUint32(text, uint32(headerSize+len(payload)))
	binary.BigEndian.PutUint32(text[16:], uint32(kind))
	binary.BigEndian.PutUint32(text[24:], uint32(status))
	return append(text, payload...)
}

// encodeError encodes a virNetMessageError with a code and error domain 0.
func encodeError(code uint32) []byte {
	const said = "the proxy says so"
	var text []byte
	add := func(v uint32) { text = binary.BigEndian.AppendUint32(text, v) }
	add(code)
	add(0)
	add(1) // there is a text
	add(uint32(len(said)))
	text = append(text, said...)
	for len(text)%4 != 0 {
		text = append(text, 0)
	}
	add(2) // an error, not a warning
	for range 4 {
		add(0) // no domain, no further texts
	}
	add(0)
	add(0)
	add(0) // no network
	return text
}

// procLifecycleEvent is REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE.
const procLifecycleEvent = 318

// lifecycleEvent is an event for a started domain, for a callback that was never registered.
func lifecycleEvent(like []byte) []byte {
	const domain = "nobody"
	var payload []byte
	add := func(v uint32) { payload = binary.BigEndian.AppendUint32(payload, v) }
	add(77) // the callback
	add(uint32(len(domain)))
	payload = append(payload, domain+"\x00\x00"...)
	payload = append(payload, make([]byte, 16)...) // its UUID
	add(1)                                         // its id
	add(2)                                         // started
	add(0)
	event := frame(like, Event, OK, payload)
	binary.BigEndian.PutUint32(event[12:], procLifecycleEvent)
	binary.BigEndian.PutUint32(event[20:], 0) // events have no serial
	return event
}

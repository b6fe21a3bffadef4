package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// MaxEntries bounds how many entries are kept. A VM with more, such as a router, has a program that adds them.
	MaxEntries = 16384
	// callLimit bounds one exchange with the kernel, listTries how often a list is read that changes meanwhile.
	callLimit = 10 * time.Second
	listTries = 5
	// rounds bounds the passes of Restore: an entry can need another one.
	rounds = 4
)

// errChanging means that a list cannot be read as a whole.
var errChanging = errors.New("it changes all the time")

// ErrMany means that there are more than MaxEntries.
var ErrMany = errors.New("too many addresses, routes, rules, neighbours and nexthops")

// dial opens rtnetlink, and returns the names of the interfaces by their numbers, too.
func dial() (_ *netlink.Conn, names map[uint32]string, err error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if err = conn.SetDeadline(time.Now().Add(callLimit)); err == nil {
		names, err = linkNames(conn)
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, names, nil
}

// Read returns all entries of this network namespace that may have been added by hand.
func Read() (entries []Entry, err error) {
	conn, names, err := dial()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for i := range kinds {
		k := &kinds[i]
		for _, family := range k.families {
			listed, err := k.list(conn, family, names)
			if err != nil {
				return nil, fmt.Errorf("list each %s: %w", k.name, err)
			}
			if entries = append(entries, listed...); len(entries) > MaxEntries {
				return nil, fmt.Errorf("%w: more than %d", ErrMany, MaxEntries)
			}
		}
	}
	return entries, nil
}

// list returns the entries of one kind.
func (k *kind) list(conn *netlink.Conn, family uint8, names map[uint32]string) (entries []Entry, err error) {
	request := make([]byte, k.header)
	request[0] = family
	if k.name == "proxy neighbour" {
		request[10] = unix.NTF_PROXY
	}
	messages, err := dump(conn, k.asks, request)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // this kernel has no IPv6, or no nexthops
	}
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if uint16(m.Header.Type) != k.add || len(m.Data) > 0 && family != unix.AF_UNSPEC && m.Data[0] != family {
			continue
		}
		entry, err := k.entry(m.Data, names)
		if err != nil {
			return nil, err
		}
		if entry != nil {
			entries = append(entries, *entry)
		}
	}
	return entries, nil
}

// dump asks for a list. It asks again if the list has changed while the kernel sent it.
func dump(conn *netlink.Conn, what uint16, request []byte) (messages []netlink.Message, err error) {
	for range listTries {
		messages, err = conn.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(what), Flags: netlink.Request | netlink.Dump},
			Data:   request,
		})
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(messages,
			func(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }) {
			return messages, nil
		}
	}
	return nil, errChanging
}

// linkNames returns the names of the interfaces by their numbers.
func linkNames(conn *netlink.Conn) (map[uint32]string, error) {
	messages, err := dump(conn, unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg))
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	names := map[uint32]string{}
	for _, m := range messages {
		p, err := split(m.Data, unix.SizeofIfInfomsg)
		if err != nil {
			return nil, fmt.Errorf("list the interfaces: %w", err)
		}
		name, _, _ := bytes.Cut(p.get(unix.IFLA_IFNAME), []byte{0})
		names[indexOf(p.head)] = string(name)
	}
	return names, nil
}

// Missing returns those of the entries that are not among those that are there now.
func Missing(entries, now []Entry) (missing []Entry) {
	there := make(map[string]bool, len(now))
	for i := range now {
		there[now[i].Key] = true
	}
	for _, e := range entries {
		if !there[e.Key] {
			missing = append(missing, e)
		}
	}
	return missing
}

// Sure says which entries are surely not the network manager's, so that they are added again without a doubt.
type Sure int

// The values of Sure.
const (
	// SureOfAll: the manager's configuration is as before, so that it brings back what is its own.
	SureOfAll Sure = iota
	// SureOfUnmarked: the manager marks what is its own, so that routes and rules with RTPROT_BOOT, as ip(8) adds them,
	// are others'.
	SureOfUnmarked
	// SureOfNothing: anything may have been its own.
	SureOfNothing
)

// Of reports whether an entry is surely not the manager's.
func (s Sure) Of(e *Entry) bool {
	return s == SureOfAll || s == SureOfUnmarked && e.Protocol == unix.RTPROT_BOOT
}

// Failure is an entry that could not be added again.
type Failure struct {
	Entry Entry
	Err   error
}

// Passing reports whether the entry may be added later, when the manager has done its work.
func (f Failure) Passing() bool { return !errors.Is(f.Err, unix.EEXIST) && !errors.Is(f.Err, ErrLink) }

// ErrLink means that an interface is not there any more.
var ErrLink = errors.New("its interface is not there any more")

// Restore adds those entries again that are missing, and returns those that it could not add. Where something else has
// taken the place of an entry, such as another route to the same destination, that stays, and the error is EEXIST.
func Restore(ctx context.Context, entries []Entry) (failures []Failure, err error) {
	_, failures, err = restore(ctx, entries)
	return failures, err
}

// restore is Restore, and also returns how many entries were missing at first.
func restore(ctx context.Context, entries []Entry) (gone int, failures []Failure, err error) {
	if len(entries) == 0 {
		return 0, nil, nil
	}
	for round := range rounds {
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
		now, err := Read()
		if err != nil {
			return 0, nil, err
		}
		missing := Missing(entries, now)
		if round == 0 {
			gone = len(missing)
		}
		if failures, err = add(missing); err != nil {
			return 0, nil, err
		}
		if len(failures) == 0 || len(failures) == len(missing) {
			return gone, failures, nil
		}
	}
	return gone, failures, nil
}

// add adds entries in their order.
func add(entries []Entry) (failures []Failure, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	conn, names, err := dial()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for _, e := range entries {
		if err := addOne(conn, e, names); err != nil {
			failures = append(failures, Failure{e, err})
		}
	}
	return failures, nil
}

func addOne(conn *netlink.Conn, e Entry, names map[uint32]string) error {
	for index, name := range e.Links {
		if names[index] != name {
			return fmt.Errorf("%w: %s", ErrLink, name)
		}
	}
	_, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(e.Type),
			Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
		},
		Data: e.Body,
	})
	return err
}

// groups are the multicast groups in which the kernel tells what goes: RTNLGRP_NEIGH and others, as a mask.
const groups = 1<<(unix.RTNLGRP_NEIGH-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1) |
	1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) |
	1<<(unix.RTNLGRP_IPV6_RULE-1) | 1<<(unix.RTNLGRP_NEXTHOP-1)

const (
	// calm is how long Watch waits after something went, for what goes with it.
	calm = 20 * time.Millisecond
	// look is how often Watch looks if the kernel tells nothing.
	look = time.Second
)

// Watch restores the entries whenever something goes, until ctx ends, and calls gone each time it finds one missing
// that it had not missed before. What cannot be restored is tried again.
//
// A list that changes all the time is one of a network that others work on: it is looked at again.
func Watch(ctx context.Context, entries []Entry, gone func()) (err error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups})
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for failed := 0; ctx.Err() == nil; {
		missing, failures, err := restore(ctx, entries)
		if err != nil && !errors.Is(err, errChanging) && ctx.Err() == nil {
			return err
		}
		if missing > failed {
			gone()
		}
		failed = len(failures)
		if err := conn.SetReadDeadline(time.Now().Add(look)); err != nil {
			return err
		}
		await(ctx, conn)
	}
	return nil
}

// await waits until the kernel says that something went, or for a second. Messages that the kernel could not deliver
// count as one that says so.
func await(ctx context.Context, conn *netlink.Conn) {
	stop := context.AfterFunc(ctx,
		func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }) // the wait ends a second later without it
	defer stop()
	for ctx.Err() == nil {
		messages, err := conn.Receive()
		gone := slices.ContainsFunc(messages,
			func(m netlink.Message) bool { return slices.Contains(removals, uint16(m.Header.Type)) })
		if err == nil && !gone {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(calm):
		}
		return
	}
}

var removals = []uint16{unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELRULE, unix.RTM_DELNEIGH, unix.RTM_DELNEXTHOP}

// Texts describes failures, one line each.
func Texts(failures []Failure) (texts []string) {
	for _, f := range failures {
		why := f.Err.Error()
		if errors.Is(f.Err, unix.EEXIST) {
			why = "something else is in its place"
		}
		texts = append(texts, f.Entry.String()+": "+strings.TrimPrefix(why, "netlink receive: "))
	}
	return texts
}

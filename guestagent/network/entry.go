package network

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Entry is an address, a route, a rule, a neighbour or a nexthop.
type Entry struct {
	// Type is the type of the message of rtnetlink(7) that adds it, such as RTM_NEWADDR.
	Type uint16 `json:"type"`
	// Body is that message: a header of fixed length, and attributes.
	Body []byte `json:"body"`
	// Key identifies it among all entries of all programs.
	Key string `json:"key"`
	// Links are the names of the interfaces in it, by their numbers.
	Links map[uint32]string `json:"links,omitempty"`
	// Protocol says who has added a route, a rule or a nexthop (RTPROT_BOOT and others); 0 for others.
	Protocol uint8 `json:"protocol,omitempty"`
}

// These numbers of the kernel's if_addr.h, fib_rules.h, nexthop.h and rtnetlink.h are not in package unix.
const (
	ifaProto       = 11
	fromKernelMost = 3 // IFAPROT_KERNEL_LO, IFAPROT_KERNEL_RA, IFAPROT_KERNEL_LL
	ruleInverted   = 2 // FIB_RULE_INVERT
	nexthopOnLink  = unix.RTNH_F_ONLINK
	protoDHCP      = 16 // RTPROT_DHCP
	nexthopID      = 30 // RTA_NH_ID
)

// kind is one kind of entries.
type kind struct {
	name string
	// add and asks are the types of the messages that add one and list all; header is the length of both's headers.
	add, asks uint16
	header    int
	families  []uint8
	// keep reports whether an entry can have been added by hand, and removes from it what only the kernel sets.
	keep func(*parts) bool
	// key are the attributes that identify an entry, besides its header.
	key []uint16
}

var inet = []uint8{unix.AF_INET, unix.AF_INET6}

// kinds are in the order in which they are added: later ones can need earlier ones.
var kinds = []kind{
	{"address", unix.RTM_NEWADDR, unix.RTM_GETADDR, unix.SizeofIfAddrmsg, inet, address,
		[]uint16{unix.IFA_ADDRESS, unix.IFA_LOCAL}},
	{"nexthop", unix.RTM_NEWNEXTHOP, unix.RTM_GETNEXTHOP, 8, []uint8{unix.AF_UNSPEC}, nexthop, []uint16{unix.NHA_ID}},
	{"route", unix.RTM_NEWROUTE, unix.RTM_GETROUTE, unix.SizeofRtMsg, inet, route, []uint16{
		unix.RTA_DST, unix.RTA_SRC, unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_PRIORITY,
		unix.RTA_TABLE, unix.RTA_MULTIPATH,
		nexthopID,
	}},
	{"neighbour", unix.RTM_NEWNEIGH, unix.RTM_GETNEIGH, unix.SizeofNdMsg, inet, neighbour,
		[]uint16{unix.NDA_DST, unix.NDA_LLADDR}},
	{"proxy neighbour", unix.RTM_NEWNEIGH, unix.RTM_GETNEIGH, unix.SizeofNdMsg, inet, proxy, []uint16{unix.NDA_DST}},
	{"rule", unix.RTM_NEWRULE, unix.RTM_GETRULE, unix.SizeofRtMsg, inet, rule, nil},
}

// parts are the parts of a message.
type parts struct {
	head       []byte
	attributes []netlink.Attribute
	protocol   uint8
}

func split(body []byte, header int) (*parts, error) {
	if len(body) < header {
		return nil, fmt.Errorf("a message of %d bytes", len(body))
	}
	attributes, err := netlink.UnmarshalAttributes(body[header:])
	if err != nil {
		return nil, err
	}
	return &parts{head: bytes.Clone(body[:header]), attributes: attributes}, nil
}

func (p *parts) join() ([]byte, error) {
	attributes, err := netlink.MarshalAttributes(p.attributes)
	return append(bytes.Clone(p.head), attributes...), err
}

// get returns an attribute, nil if there is none.
func (p *parts) get(attribute uint16) []byte {
	at := slices.IndexFunc(p.attributes, func(a netlink.Attribute) bool { return a.Type == attribute })
	if at < 0 {
		return nil
	}
	return p.attributes[at].Data
}

func (p *parts) number(attribute uint16) (uint32, bool) {
	data := p.get(attribute)
	if len(data) != 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(data), true
}

func (p *parts) drop(attributes ...uint16) {
	p.attributes = slices.DeleteFunc(p.attributes,
		func(a netlink.Attribute) bool { return slices.Contains(attributes, a.Type) })
}

// mask keeps some of the flags in four bytes of the header.
func (p *parts) mask(offset int, kept uint32) {
	flags := binary.NativeEndian.Uint32(p.head[offset:])
	binary.NativeEndian.PutUint32(p.head[offset:], flags&kept)
}

// address keeps permanent addresses. struct ifaddrmsg: family, length, flags, scope, index (4 bytes).
func address(p *parts) bool {
	flags, long := p.number(unix.IFA_FLAGS)
	if !long {
		flags = uint32(p.head[2])
	}
	if origin := p.get(ifaProto); len(origin) == 1 && origin[0] > 0 && origin[0] <= fromKernelMost {
		return false
	}
	linkLocal := p.head[0] == unix.AF_INET6 && p.head[3] == unix.RT_SCOPE_LINK
	if flags&unix.IFA_F_PERMANENT == 0 || linkLocal {
		return false
	}
	const kept = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN
	p.head[2] &= kept & 0xff
	p.drop(unix.IFA_FLAGS)
	p.attributes = append(p.attributes,
		netlink.Attribute{Type: unix.IFA_FLAGS, Data: binary.NativeEndian.AppendUint32(nil, flags&kept)})
	return true
}

// nexthop keeps all that the kernel has not made. struct nhmsg: family, scope, protocol, a reserved byte, flags.
func nexthop(p *parts) bool {
	p.protocol = p.head[2]
	p.head[1] = 0 // the kernel sets the scope
	p.mask(4, nexthopOnLink)
	return ofAdministrator(p.protocol)
}

// ofAdministrator reports whether a protocol is one of administrators and programs that they run, and not one of the
// kernel, of router advertisements or of DHCP.
func ofAdministrator(protocol uint8) bool {
	return protocol != unix.RTPROT_KERNEL && protocol != unix.RTPROT_REDIRECT &&
		protocol != unix.RTPROT_RA && protocol != protoDHCP
}

// route keeps routes without a time limit. struct rtmsg: family, lengths of destination and source, tos, table,
// protocol, scope, type, flags.
func route(p *parts) bool {
	p.protocol = p.head[5]
	flags := binary.NativeEndian.Uint32(p.head[8:])
	// struct rta_cacheinfo: the fourth byte group is when the route expires.
	cached := p.get(unix.RTA_CACHEINFO)
	expires := len(cached) >= 12 && binary.NativeEndian.Uint32(cached[8:]) != 0
	if !ofAdministrator(p.protocol) || flags&unix.RTM_F_CLONED != 0 || p.head[4] == unix.RT_TABLE_LOCAL || expires {
		return false
	}
	p.mask(8, unix.RTNH_F_ONLINK)
	p.drop(unix.RTA_CACHEINFO)
	if p.get(nexthopID) != nil { // the kernel also lists what the nexthop says
		p.drop(unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH)
	}
	for i, a := range p.attributes {
		if a.Type != unix.RTA_MULTIPATH {
			continue
		}
		p.attributes[i].Data = bytes.Clone(a.Data)
		eachHop(p.attributes[i].Data, func(hop []byte) { hop[2] &= unix.RTNH_F_ONLINK })
	}
	return true
}

// eachHop calls visit for each struct rtnexthop: length (2 bytes), flags, hops, index (4 bytes).
func eachHop(data []byte, visit func(hop []byte)) {
	for len(data) >= unix.SizeofRtNexthop {
		visit(data)
		length := int(binary.NativeEndian.Uint16(data)+3) &^ 3
		if length < unix.SizeofRtNexthop || length > len(data) {
			return
		}
		data = data[length:]
	}
}

// neighbour keeps permanent ones. struct ndmsg: family, three bytes of padding, index, state (2 bytes), flags, type.
func neighbour(p *parts) bool {
	state, flags := binary.NativeEndian.Uint16(p.head[8:]), p.head[10]
	p.drop(unix.NDA_CACHEINFO, unix.NDA_PROBES)
	return state&unix.NUD_PERMANENT != 0 && flags&(unix.NTF_PROXY|unix.NTF_EXT_LEARNED) == 0
}

func proxy(p *parts) bool {
	p.drop(unix.NDA_CACHEINFO, unix.NDA_PROBES)
	return p.head[10]&unix.NTF_PROXY != 0
}

// rule keeps rules that are not the kernel's. struct fib_rule_hdr: family, lengths of destination and source, tos,
// table, two reserved bytes, action, flags.
func rule(p *parts) bool {
	if protocol := p.get(unix.FRA_PROTOCOL); len(protocol) == 1 {
		p.protocol = protocol[0]
	}
	p.mask(8, ruleInverted)
	return ofAdministrator(p.protocol)
}

// entry makes an entry of a message that lists it; nil if it is not kept.
func (k *kind) entry(body []byte, names map[uint32]string) (*Entry, error) {
	p, err := split(body, k.header)
	if err != nil || !k.keep(p) {
		return nil, err
	}
	kept, err := p.join()
	if err != nil {
		return nil, err
	}
	e := &Entry{Type: k.add, Body: kept, Protocol: p.protocol, Key: k.identity(p), Links: map[uint32]string{}}
	for _, index := range k.links(p) {
		e.Links[index] = names[index]
	}
	return e, nil
}

// identity is the key of an entry.
func (k *kind) identity(p *parts) string {
	head := bytes.Clone(p.head)
	switch k.add {
	case unix.RTM_NEWADDR:
		head[2], head[3] = 0, 0 // flags, scope
	case unix.RTM_NEWROUTE:
		head[5], head[6] = 0, 0 // protocol, scope
		clear(head[8:])
	case unix.RTM_NEWNEXTHOP:
		clear(head)
	}
	key := fmt.Sprintf("%s %x", k.name, head)
	attributes := slices.Clone(p.attributes)
	slices.SortFunc(attributes, func(a, b netlink.Attribute) int { return cmp.Compare(a.Type, b.Type) })
	for _, a := range attributes {
		if slices.Contains(k.key, a.Type) || k.key == nil && a.Type != unix.FRA_PROTOCOL {
			key += fmt.Sprintf(" %d=%x", a.Type, a.Data)
		}
	}
	return key
}

// links returns the numbers of the interfaces in an entry.
func (k *kind) links(p *parts) (indices []uint32) {
	switch k.add {
	case unix.RTM_NEWADDR, unix.RTM_NEWNEIGH:
		return []uint32{indexOf(p.head)}
	case unix.RTM_NEWNEXTHOP:
		if index, found := p.number(unix.NHA_OIF); found {
			return []uint32{index}
		}
	case unix.RTM_NEWROUTE:
		if index, found := p.number(unix.RTA_OIF); found {
			indices = append(indices, index)
		}
		eachHop(p.get(unix.RTA_MULTIPATH), func(hop []byte) { indices = append(indices, indexOf(hop)) })
	}
	return indices
}

// kindOf returns the kind of an entry; nil if it is of none.
func kindOf(e *Entry) *kind {
	for i := range kinds {
		if kinds[i].add == e.Type && strings.HasPrefix(e.Key, kinds[i].name+" ") {
			return &kinds[i]
		}
	}
	return nil
}

// String describes an entry: "route 10.8.0.0/16 via 10.1.0.5 on eth0".
func (e *Entry) String() string {
	k := kindOf(e)
	if k == nil {
		return "an unknown entry"
	}
	p, err := split(e.Body, k.header)
	if err != nil {
		return k.name
	}
	ip := func(attribute uint16) string {
		if a, ok := netip.AddrFromSlice(p.get(attribute)); ok {
			return a.String()
		}
		return ""
	}
	words := []string{k.name}
	say := func(before, word string) {
		if word != "" {
			words = append(words, strings.TrimSpace(before+" "+word))
		}
	}
	number := func(before string, attribute uint16) {
		if n, found := p.number(attribute); found {
			say(before, fmt.Sprint(n))
		}
	}
	switch e.Type {
	case unix.RTM_NEWADDR:
		say("", fmt.Sprintf("%s/%d", cmp.Or(ip(unix.IFA_LOCAL), ip(unix.IFA_ADDRESS)), p.head[1]))
	case unix.RTM_NEWNEIGH:
		say("", ip(unix.NDA_DST))
	case unix.RTM_NEWNEXTHOP:
		number("", unix.NHA_ID)
	case unix.RTM_NEWROUTE:
		destination := "default"
		if p.head[1] > 0 || ip(unix.RTA_DST) != "" {
			destination = fmt.Sprintf("%s/%d", ip(unix.RTA_DST), p.head[1])
		}
		say("", destination)
		say("via", ip(unix.RTA_GATEWAY))
		if table, found := p.number(unix.RTA_TABLE); found && table != unix.RT_TABLE_MAIN {
			say("in table", fmt.Sprint(table))
		}
	case unix.RTM_NEWRULE:
		number("", unix.FRA_PRIORITY)
		say("from", ip(unix.FRA_SRC))
		say("to", ip(unix.FRA_DST))
		number("table", unix.FRA_TABLE)
	}
	for _, index := range k.links(p) {
		say("on", e.Links[index])
	}
	return strings.Join(words, " ")
}

// indexOf returns the number of the interface in a header whose fifth byte begins it, as in struct ifinfomsg.
func indexOf(head []byte) uint32 { return binary.NativeEndian.Uint32(head[4:]) }

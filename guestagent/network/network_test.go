package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alone is set in the environment of a test that runs in a network and a mount namespace of its own.
const alone = "NETWORK_TEST_ALONE"

// inNamespaces runs the test again in namespaces of its own, and returns true in it.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	if os.Getenv(alone) != "" {
		prepare(t)
		return true
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), alone+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	out, err := again.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// prepare makes an interface d0 with a carrier, and has udev's record of it, so that networkd takes it for a real one.
func prepare(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	must(unix.Mount("sysfs", "/sys", "sysfs", 0, ""))
	for _, directory := range []string{"/run/systemd/network", "/run/systemd/netif/links",
		"/run/systemd/netif/leases", "/run/udev/data"} {
		must(os.MkdirAll(directory, 0o755))
	}
	must(os.WriteFile("/run/udev/control", nil, 0o600))
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC,
		0) // before it is known to Go's poller, which it breaks
	must(err)
	t.Cleanup(func() { _ = unix.Close(tun) })
	var request [40]byte
	copy(request[:], "d0")
	request[16], request[17] = 0x02, 0x10 // IFF_TAP | IFF_NO_PI
	if _, _, failed := unix.Syscall(unix.SYS_IOCTL, uintptr(tun), unix.TUNSETIFF,
		uintptr(unsafe.Pointer(&request[0]))); failed != 0 {
		t.Fatal(failed)
	}
	run(t, "ip link set lo up")
	for _, index := range []string{"1", "2"} {
		must(os.WriteFile("/run/udev/data/n"+index, []byte("I:100\nE:ID_NET_NAME=x\nV:1\n"), 0o644))
	}
}

func run(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// networkd runs systemd-networkd until the returned function is called, and waits until it has configured d0.
func networkd(t *testing.T) (stop func()) {
	t.Helper()
	account, err := user.Lookup("systemd-network")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	links, err := filepath.Glob("/run/systemd/netif/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(links, "/run/systemd/netif") {
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Remove("/run/systemd/netif/links/2") // there is none before the first start
	daemon := exec.CommandContext(t.Context(), "/lib/systemd/systemd-networkd")
	daemon.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW},
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		state, err := os.ReadFile("/run/systemd/netif/links/2")
		if err == nil && strings.Contains(string(state), "ADMIN_STATE=configured") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("networkd did not configure d0: %v: %s", err, state)
		}
	}
	return func() {
		if err := daemon.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = daemon.Wait() // it was ended by a signal
	}
}

func configure(t *testing.T, address string) {
	t.Helper()
	const file = "/run/systemd/network/10-d0.network"
	text := "[Match]\nName=d0\n[Network]\nAddress=" + address + "\n[Route]\nDestination=10.5.0.0/16\nGateway=10.1.0.9\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// byHand are the commands of an administrator, and what lists show of them.
var byHand = []struct{ command, list, shows string }{
	{"ip address add 10.9.0.1/24 dev d0 label d0:1", "ip address", "inet 10.9.0.1/24 scope global d0:1"},
	{"ip address add 10.9.1.1 peer 10.9.1.2/32 dev d0", "ip address", "inet 10.9.1.1 peer 10.9.1.2/32"},
	{"ip address add 2001:db8::1/64 dev d0 nodad", "ip address", "inet6 2001:db8::1/64 scope global nodad"},
	{"ip route add 10.8.0.0/16 via 10.1.0.5", "ip route", "10.8.0.0/16 via 10.1.0.5"},
	{"ip route add 10.7.0.0/16 via 10.9.0.5 proto static metric 7 mtu 1400", "ip route",
		"10.7.0.0/16 via 10.9.0.5 dev d0 proto static metric 7 mtu 1400"},
	{"ip route add blackhole 10.6.0.0/16 table 99", "ip route show table 99", "blackhole 10.6.0.0/16"},
	{"ip route add 10.4.0.0/16 nexthop via 10.1.0.6 nexthop via 10.1.0.7 weight 2", "ip route", "nexthop via 10.1.0.7 dev d0 weight 2"},
	{"ip -6 route add 2001:db8:1::/48 via 2001:db8::5", "ip -6 route", "2001:db8:1::/48 via 2001:db8::5"},
	{"ip nexthop add id 5 via 10.1.0.8 dev d0", "ip nexthop", "id 5 via 10.1.0.8 dev d0"},
	{"ip route add 10.3.0.0/16 nhid 5", "ip route", "10.3.0.0/16 nhid 5"},
	{"ip rule add from 10.9.0.0/24 lookup 99 priority 70", "ip rule", "70:	from 10.9.0.0/24 lookup 99"},
	{"ip -6 rule add fwmark 7 lookup 99 suppress_prefixlength 0", "ip -6 rule", "fwmark 0x7 lookup 99 suppress_prefixlength 0"},
	{"ip neighbour add 10.1.0.7 lladdr 02:00:00:00:00:01 dev d0", "ip neighbour", "10.1.0.7 dev d0 lladdr 02:00:00:00:00:01 PERMANENT"},
	{"ip neighbour add proxy 10.1.0.99 dev d0", "ip neighbour show proxy", "10.1.0.99 dev d0"},
}

func lost(t *testing.T) (commands []string) {
	t.Helper()
	for _, one := range byHand {
		if !strings.Contains(run(t, one.list), one.shows) {
			commands = append(commands, one.command)
		}
	}
	return commands
}

func TestARestartOfNetworkdKeepsWhatWasAddedByHand(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	configure(t, "10.1.0.1/24")
	stop := networkd(t)
	for _, one := range byHand {
		run(t, one.command)
	}
	if commands := lost(t); len(commands) > 0 {
		t.Fatalf("the test itself does not see %q", commands)
	}
	before, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	stop()
	// The real networkd drops most of it.
	stop = networkd(t)
	time.Sleep(500 * time.Millisecond)
	if commands := lost(t); len(commands) < 8 {
		t.Fatalf("networkd has dropped only %q", commands)
	}
	failures, err := Restore(t.Context(), before)
	if err != nil || len(failures) > 0 {
		t.Fatalf("%q, %v", Texts(failures), err)
	}
	if commands := lost(t); len(commands) > 0 {
		t.Errorf("not there again: %q\n%s", commands,
			run(t, "ip address; ip route show table all; ip rule; ip -6 rule; ip nexthop; ip neighbour"))
	}
	stop()

	// Watch adds it again while networkd starts.
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var gone atomic.Bool
	go func() { ended <- Watch(ctx, before, func() { gone.Store(true) }) }()
	stop = networkd(t)
	for limit := time.Now().Add(10 * time.Second); len(lost(t)) > 0 && time.Now().Before(limit); {
		time.Sleep(10 * time.Millisecond)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if commands := lost(t); len(commands) > 0 {
		t.Errorf("not there again: %q", commands)
	}
	if !gone.Load() {
		t.Error("Watch does not say that something was gone")
	}
	if routes := run(t, "ip route"); strings.Count(routes, "10.5.0.0/16") != 1 {
		t.Errorf("networkd's own route: %s", routes)
	}
	stop()
}

func TestNothingIsReplacedAndNothingElseIsAdded(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	run(t, "ip link set d0 up; ip address add 10.1.0.1/24 dev d0; ip route add 10.8.0.0/16 via 10.1.0.5")
	run(t, "ip address add 10.2.0.1/24 dev d0 valid_lft 600 preferred_lft 600; ip route add 10.7.0.0/16 via 10.1.0.5 proto dhcp")
	run(t, "ip link add name b0 type bridge 2>/dev/null || ip tuntap add b0 mode tap; ip address add 10.3.0.1/24 dev b0")
	before, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	run(t, "ip route replace 10.8.0.0/16 via 10.1.0.6; ip address del 10.2.0.1/24 dev d0; ip route del 10.7.0.0/16; ip link del b0")
	failures, err := Restore(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	texts := Texts(failures)
	slices.Sort(texts)
	want := []string{"address 10.3.0.1/24 on b0: " + ErrLink.Error() + ": b0",
		"route 10.8.0.0/16 via 10.1.0.5 on d0: something else is in its place"}
	if !slices.Equal(texts, want) {
		t.Errorf("%q", texts)
	}
	if now := run(t, "ip address; ip route"); strings.Contains(now, "10.2.0.1") || strings.Contains(now, "10.7.0.0") ||
		!strings.Contains(now, "10.8.0.0/16 via 10.1.0.6") {
		t.Error(now)
	}
	for _, e := range before {
		if strings.Contains(e.String(), "10.2.0.1") || strings.Contains(e.String(), "10.7.0.0") {
			t.Errorf("%s is not the administrator's", &e)
		}
	}
}

func TestMissingIsWhatIsNotThere(t *testing.T) {
	a, b := Entry{Key: "a"}, Entry{Key: "b"}
	if missing := Missing([]Entry{a, b}, []Entry{b}); len(missing) != 1 || missing[0].Key != "a" {
		t.Errorf("%v", missing)
	}
	if failures, err := Restore(t.Context(), nil); err != nil || failures != nil {
		t.Errorf("nothing is kept: %v, %v", failures, err)
	}
	if text := fmt.Sprint(&Entry{Key: "strange"}); text != "an unknown entry" {
		t.Error(text)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Restore(ended, []Entry{a}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

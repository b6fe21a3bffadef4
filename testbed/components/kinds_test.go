package components_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// kinds is a component of files that can be used in each way in which systemd starts a service for
// somebody: an instance for each connection, a timer, a path and a name on the message bus.
//
// Its services have no time limit. Once systemd has read them in place of their stand-ins, it holds
// theirs against the time since the stand-in was started, and on a busy machine attaching the
// component takes longer than the 90 seconds of systemd's default.
var kinds = []guest.Edit{
	guest.Write("usr/lib/systemd/system/lines.socket", 0o644, "[Socket]\nListenStream=7072\nAccept=yes\n"),
	guest.Write("usr/lib/systemd/system/lines@.service", 0o644,
		"[Service]\nTimeoutStartSec=infinity\nStandardInput=socket\nExecStart=-/usr/bin/line\n"),
	guest.Write("usr/bin/line", 0o755, "#!/bin/sh\nread line; echo \"$line from $REMOTE_ADDR\"\n"),
	guest.Link("etc/systemd/system/sockets.target.wants/lines.socket", "/usr/lib/systemd/system/lines.socket"),

	guest.Write("usr/lib/systemd/system/ticks.timer", 0o644, "[Timer]\nOnActiveSec=1s\nAccuracySec=1ms\n"),
	guest.Write("usr/lib/systemd/system/ticks.service", 0o644,
		"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo ticked >> /run/ticks'\n"),

	guest.Write("usr/lib/systemd/system/spool.path", 0o644, "[Path]\nPathExists=/run/spool\n"),
	guest.Write("usr/lib/systemd/system/spool.service", 0o644,
		"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'cat /run/spool >> /run/spooled; rm /run/spool'\n"),
	guest.Link("etc/systemd/system/paths.target.wants/spool.path", "/usr/lib/systemd/system/spool.path"),

	guest.Write("usr/share/dbus-1/system-services/org.example.Kinds.service", 0o644,
		"[D-BUS Service]\nName=org.example.Kinds\nExec=/bin/false\nUser=root\nSystemdService=kinds-bus.service\n"),
	guest.Write("usr/share/dbus-1/system.d/org.example.Kinds.conf", 0o644,
		`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy user="root"><allow own="org.example.Kinds"/></policy>
  <policy context="default"><allow send_destination="org.example.Kinds"/></policy>
</busconfig>
`),
	guest.Write("usr/lib/systemd/system/kinds-bus.service", 0o644,
		"[Service]\nTimeoutStartSec=infinity\nType=dbus\nBusName=org.example.Kinds\nExecStart=/usr/bin/kinds-bus\n"),
	guest.Write("usr/bin/kinds-bus", 0o755, kindsBus),
}

// kindsBus answers every call of a method with a text, in the protocol of the D-Bus specification.
const kindsBus = `#!/usr/bin/perl
use IO::Socket::UNIX;
sub pad { $_[0] . "\0" x (-length($_[0]) % $_[1]) }
sub text { pack("L<", length $_[0]) . $_[0] . "\0" }
sub field {
	my ($code, $type, $value) = @_;
	my $is = $type eq "u" ? pack("L<", $value) : $type eq "g" ? pack("C", length $value) . "$value\0" : text($value);
	return pack("CC", $code, 1) . "$type\0" . $is;
}
sub message {
	my ($type, $serial, $body, @fields) = @_;
	my $fields = "";
	$fields = pad($fields, 8) . $_ for @fields;
	return pad(pack("aCCCL<L<L<", "l", $type, 0, 1, length $body, $serial, length $fields) . $fields, 8) . $body;
}
sub bytes { my $all = ""; while (length $all < $_[0]) { sysread($bus, $all, $_[0] - length $all, length $all) or die "the bus has gone" } $all }
$bus = IO::Socket::UNIX->new(Peer => $ARGV[0] || "/run/dbus/system_bus_socket") or die "connect: $!";
syswrite $bus, "\0AUTH EXTERNAL 30\r\n";
my $line = ""; $line .= bytes(1) until $line =~ /\n/;
$line =~ /^OK/ or die $line;
my @bus = (field(1, "o", "/org/freedesktop/DBus"), field(2, "s", "org.freedesktop.DBus"), field(6, "s", "org.freedesktop.DBus"));
syswrite $bus, "BEGIN\r\n" . message(1, 1, "", @bus, field(3, "s", "Hello"))
	. message(1, 2, pad(text("org.example.Kinds"), 4) . pack("L<", 4), @bus, field(3, "s", "RequestName"), field(8, "g", "su"));
my $serial = 2;
while (1) {
	my (undef, $type, undef, undef, $body, $of, $length) = unpack("aCCCL<L<L<", bytes(16));
	my $fields = bytes($length + (-$length % 8));
	bytes($body);
	my $sender = "";
	for (my $at = 0; $at < $length; $at += -$at % 8) {
		my ($code, $size, $kind) = unpack("CCa", substr($fields, $at));
		$at += 4;
		if ($kind eq "u") { $at += 4; next }
		if ($kind eq "g") { $at += 2 + unpack("C", substr($fields, $at)); next }
		my $value = unpack("L</a", substr($fields, $at));
		$at += 5 + length $value;
		$sender = $value if $code == 7;
	}
	syswrite $bus, message(2, ++$serial, text("answer"), field(5, "u", $of), field(6, "s", $sender), field(8, "g", "s")) if $type == 1;
}
`

// converse sends a line over each of two connections to the service that has an instance for each
// connection, and returns what the instances answer.
func (o *offered) converse(t *testing.T) string {
	t.Helper()
	began := time.Now()
	var connections []net.Conn
	for i := range 2 {
		connection, err := net.DialTimeout("tcp", o.vm.Address(7072), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = connection.Close() }() // it is read by then
		if err := connection.SetDeadline(time.Now().Add(4 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(connection, "hello %d\n", i); err != nil {
			t.Fatal(err)
		}
		connections = append(connections, connection)
	}
	var answers []string
	for _, connection := range connections {
		answer, err := bufio.NewReader(connection).ReadString('\n')
		t.Logf("answered after %v: %q, %v", time.Since(began), answer, err)
		answers = append(answers, answer)
	}
	return strings.Join(answers, "")
}

// everyKind uses the component in each way, detached in between.
func (o *offered) everyKind(t *testing.T) {
	for _, one := range []struct {
		name string
		use  func(t *testing.T) string
		want string
	}{
		{"a connection that gets an instance of its own", o.converse, "hello 0 from 10.0.2.2\nhello 1 from 10.0.2.2\n"},
		{"a timer", func(t *testing.T) string {
			return o.run(t, "systemctl start ticks.timer; until test -s /run/ticks; do sleep 0.2; done; cat /run/ticks")
		}, "ticked"},
		{"a path", func(t *testing.T) string {
			return o.run(
				t, "echo spooled > /run/spool; until ! test -e /run/spool; do sleep 0.2; done; cat /run/spooled")
		}, "spooled"},
		{"a name on the message bus", func(t *testing.T) string {
			return o.run(t, "busctl --timeout=240 call org.example.Kinds / org.example.Kinds Ask")
		}, `s "answer"`},
	} {
		before := o.states(t)
		if got := one.use(t); got != one.want {
			t.Errorf("%s is answered by %q", one.name, got)
		}
		o.settled(t)
		o.check(t, o.list("echo", "kinds"), o.untouched(before, "ticks.timer", "spool.path"),
			prints("sharedos component remove kinds >/dev/null", ""),
			o.untouched(nil))
		matrix.Record(t, "a component on demand is used by "+one.name, "attach",
			"it is answered by the component's own unit")
	}
}

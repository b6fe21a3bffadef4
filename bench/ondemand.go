package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

const (
	// demandPort is that of the service of the component on demand.
	demandPort = 8008
	// mostIdle is how much memory, in bytes, a component on demand may take before it is used, and mostBoot how much
	// longer a boot may take with one.
	mostIdle = 1 << 20
	mostBoot = 1.02
)

// greeting is a component with a service that answers on a socket of systemd.
var greeting = []guest.Edit{
	guest.Write("usr/lib/systemd/system/greeting.socket", 0o644,
		fmt.Sprintf("[Socket]\nListenStream=%d\n", demandPort)),
	guest.Write("usr/lib/systemd/system/greeting.service", 0o644, "[Service]\nExecStart=/usr/bin/greeting\n"),
	guest.Write("usr/bin/greeting", 0o755, `#!/usr/bin/perl
open(my $listener, "+<&=", 3) or die;
while (accept(my $client, $listener)) { syswrite($client, "hello\n"); close $client; }
`),
	guest.Link("etc/systemd/system/sockets.target.wants/greeting.socket", "/usr/lib/systemd/system/greeting.socket"),
}

// onDemand measures what a component costs that is offered and not used, and its first use,
// compared with the same component that the host attaches.
func (a *attached) onDemand(ctx context.Context) error {
	component, err := a.vm.World.Component(ctx, "greeting", a.base, guest.Files(greeting...))
	if err != nil {
		return err
	}
	var idle, boots [2][]float64 // without and with the component
	for range turns {
		for with, offered := range [][]tree.Digest{nil, {component}} {
			ready, err := a.restart(ctx, offered)
			if err != nil {
				return err
			}
			boots[with] = append(boots[with], ready)
			bytes, err := number(a.vm.Run(ctx, memoryInUse))
			if err != nil {
				return err
			}
			idle[with] = append(idle[with], float64(bytes))
		}
	}
	a.results.add("memory of a component on demand, not used", median(idle[1])-median(idle[0]), "bytes", 0, mostIdle)
	a.results.add("boot with a component on demand, not used", median(boots[1]), "seconds", median(boots[0]),
		mostBoot*median(boots[0]))

	var first, attach []float64
	for range turns {
		began := time.Now()
		if err := a.greet(ctx); err != nil {
			return err
		}
		first = append(first, time.Since(began).Seconds())
		if err := a.offer(ctx, nil, nil); err != nil {
			return err
		}
		began = time.Now()
		if err := a.offer(ctx, []tree.Digest{component}, nil); err != nil {
			return err
		}
		if err := a.greet(ctx); err != nil {
			return err
		}
		attach = append(attach, time.Since(began).Seconds())
		if err := a.offer(ctx, nil, []tree.Digest{component}); err != nil {
			return err
		}
	}
	a.results.add("first byte of a component on demand", median(first), "seconds", median(attach), median(attach))
	return a.offer(ctx, nil, nil)
}

// memoryInUse prints the memory in use that is no cache of files, in bytes.
const memoryInUse = `sync; echo 3 > /proc/sys/vm/drop_caches; sleep 2
awk '/^(AnonPages|Slab|KernelStack|PageTables|Percpu|Shmem):/ { sum += $2 } END { print sum * 1024 }' /proc/meminfo`

// offer has the VM run the base with components, and with others on demand.
func (a *attached) offer(ctx context.Context, components, onDemand []tree.Digest) error {
	spec := a.vm.Spec
	spec.Components, spec.OnDemand, spec.DetachUsed = components, onDemand, true
	_, report, err := a.vm.World.Host.Fleet.Update(ctx, spec, func(string) {})
	if err == nil && report != nil && !report.GetCommitted() {
		err = fmt.Errorf("the refresh was not committed: %s", report.GetError())
	}
	if err == nil {
		a.vm.Spec = spec
	}
	return err
}

// restart powers the VM off and starts it with components on demand. It returns the seconds until all of its services
// have started, as systemd says.
func (a *attached) restart(ctx context.Context, onDemand []tree.Digest) (float64, error) {
	for _, running := range []bool{false, true} {
		spec := a.vm.Spec
		spec.OnDemand, spec.Running = onDemand, running
		if _, _, err := a.vm.World.Host.Fleet.Update(ctx, spec, func(string) {}); err != nil {
			return 0, err
		}
		a.vm.Spec = spec
	}
	micros, err := number(a.vm.Run(ctx, "systemctl show --property=FinishTimestampMonotonic --value"))
	return float64(micros) / 1e6, err
}

// greet connects to the service of the component, and reads what it says.
func (a *attached) greet(ctx context.Context) error {
	connection, err := (&net.Dialer{Timeout: time.Minute}).DialContext(ctx, "tcp", a.vm.Address(demandPort))
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }() // it was only read
	if err := connection.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return err
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err == nil && strings.TrimSpace(line) != "hello" {
		err = fmt.Errorf("the service says %q", line)
	}
	return err
}

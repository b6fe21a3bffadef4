package vm_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// one returns the VM of a name in a list.
func one(t *testing.T, all []vm.Listed, name string) vm.Listed {
	t.Helper()
	at := slices.IndexFunc(all, func(l vm.Listed) bool { return l.Name == name })
	if at < 0 {
		t.Fatalf("VM %q is not in the list", name)
	}
	return all[at]
}

func TestAllVMsOfThePoolAreListed(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	off := w.second()
	off.Running = false
	w.create(t, off)
	broken := w.second()
	broken.Name, broken.UUID, broken.Running = "web-c", uuid.NewString(), false
	w.create(t, broken)
	w.hypervisor.Damage("web-c")
	w.hypervisor.AddForeign("other", uuid.NewString())
	elsewhere := w.defined(t)
	elsewhere.Name, elsewhere.UUID, elsewhere.Metadata.Pool = "elsewhere", uuid.NewString(), "another"
	if err := w.hypervisor.Define(t.Context(), elsewhere); err != nil {
		t.Fatal(err)
	}
	lists := 0
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "Inventory" {
			lists++
		}
		return nil
	}
	all, err := w.fleet.List(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, listed := range all {
		names = append(names, listed.Name)
	}
	if want := []string{"web-a", off.Name, "web-c"}; !slices.Equal(names, want) || lists != 1 {
		t.Errorf("%v are listed, with %d calls; want %v", names, lists, want)
	}
	if running := one(t, all, "web-a"); running.Err != nil || !running.VM.Answered ||
		running.State != hypervisor.Running {
		t.Errorf("a VM that runs is %+v", running)
	}
	if listed := one(t, all, off.Name); listed.Err != nil || listed.VM.State != hypervisor.Off ||
		listed.UUID != off.UUID {
		t.Errorf("a VM that is off is %+v", listed)
	}
	if damaged := one(t, all, "web-c"); damaged.VM != nil || !errors.Is(damaged.Err, hypervisor.ErrDamaged) ||
		damaged.UUID != broken.UUID {
		t.Errorf("a VM with a damaged record is %+v", damaged)
	}
}

// stuck dials guests that neither answer nor refuse, until all of them are dialled.
type stuck struct{ dialled chan<- struct{} }

func (s stuck) DialContext(ctx context.Context, _ uint32) (net.Conn, error) {
	s.dialled <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// A VM whose agent does not answer takes no other one's turn: the last one is asked while the first
// ones are waited for.
func TestASilentVMDelaysNoOtherOne(t *testing.T) {
	w := newWorld(t)
	const silent = 8
	for i := range silent {
		spec := w.spec()
		spec.Name, spec.UUID = fmt.Sprintf("a-silent-%d", i), uuid.NewString()
		w.create(t, spec)
	}
	last := w.spec()
	w.create(t, last)
	dialled := make(chan struct{}, silent)
	dial := w.hypervisor.Dial
	w.hypervisor.Dial = func(name string) (transport.Dialer, error) {
		if name == last.Name {
			for range silent {
				<-dialled // all silent ones are waited for by now
			}
			return dial(name)
		}
		return stuck{dialled}, nil
	}
	all, err := w.fleet.List(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if listed := one(t, all, last.Name); !listed.VM.Answered {
		t.Errorf("the VM that answers is %+v", listed)
	}
	if listed := one(t, all, "a-silent-0"); listed.Err != nil || listed.VM.Answered || listed.VM.NoAnswer == nil {
		t.Errorf("a silent VM is %+v", listed)
	}
}

func TestAListThatIsCutOffIsAnError(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	ctx, cancel := context.WithCancel(t.Context())
	w.hypervisor.Dial = func(string) (transport.Dialer, error) {
		cancel()
		return nil, context.Canceled
	}
	if all, err := w.fleet.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestAPortOfAVMIsDialled(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	w.create(t, spec)
	ctx := within(t, time.Minute)
	conn, err := w.fleet.Dial(ctx, spec.UUID, 22)
	if err == nil {
		t.Error(errors.Join(errors.New("a port on which nothing listens was reached"), conn.Close()))
	}
	if _, err := w.fleet.Dial(ctx, uuid.NewString(), 22); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("no such VM: %v", err)
	}
	if err := w.hypervisor.PowerOff(ctx, spec.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := w.fleet.Dial(ctx, spec.UUID, 22); !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("a VM that is off: %v", err)
	}
}

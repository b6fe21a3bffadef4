package guest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Weight is what an agent uses in a guest.
type Weight struct {
	// ResidentBytes is the agent's memory after its callers have disconnected; OpenFiles and Goroutines are the
	// agent's, too.
	ResidentBytes, OpenFiles, Goroutines int64
	// Mounts are those of the system's mount namespace, Mapped the devices of the device mapper, Loops the loop
	// devices in use.
	Mounts, Mapped, Loops int64
}

// rest is longer than an agent takes to return memory after its callers have disconnected.
const rest = 5 * time.Second

// Weigh measures the agent at rest.
func (v *VM) Weigh(ctx context.Context) (Weight, error) {
	select {
	case <-ctx.Done():
		return Weight{}, ctx.Err()
	case <-time.After(rest):
	}
	// This does not ask the agent, since answering takes memory.
	text, err := v.Run(ctx, `pid=$(systemctl show --value -p MainPID sharedos-agent.service)
awk '/^VmRSS:/ {print $2 * 1024}' /proc/$pid/status; ls /proc/$pid/fd | wc -l; wc -l < /proc/1/mountinfo
ls /sys/block | grep -c '^dm-'; cat /sys/block/loop*/loop/backing_file 2>/dev/null | wc -l`)
	if err != nil {
		return Weight{}, err
	}
	var w Weight
	fields := strings.Fields(text)
	for i, to := range []*int64{&w.ResidentBytes, &w.OpenFiles, &w.Mounts, &w.Mapped, &w.Loops} {
		if i >= len(fields) {
			return w, fmt.Errorf("weigh the agent of %s: the guest says %q", v.Spec.Name, text)
		}
		if *to, err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return w, fmt.Errorf("weigh the agent of %s: %w", v.Spec.Name, err)
		}
	}
	status, err := v.Status(ctx)
	if err != nil {
		return w, err
	}
	w.Goroutines = status.GetGoroutines()
	return w, nil
}

// Grown describes what has grown since before; "" for nothing. It leaves memory out, which varies.
func (w Weight) Grown(before Weight) string {
	var grown []string
	for _, one := range []struct {
		what        string
		before, now int64
	}{
		{"open files", before.OpenFiles, w.OpenFiles}, {"goroutines", before.Goroutines, w.Goroutines}, {"mounts", before.Mounts, w.Mounts},
		{"mapped devices", before.Mapped, w.Mapped}, {"loop devices", before.Loops, w.Loops},
	} {
		if one.now > one.before {
			grown = append(grown, fmt.Sprintf("%d %s, %d before", one.now, one.what, one.before))
		}
	}
	return strings.Join(grown, "; ")
}

package impact

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcessesTellsWhatARealProcessUses(t *testing.T) {
	program, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "60")
	command.ExtraFiles = []*os.File{held}
	command.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := command.Process.Kill(); err != nil {
			t.Error(err)
		}
		if err := command.Wait(); err == nil {
			t.Error("the process ended by itself")
		}
		if err := held.Close(); err != nil {
			t.Error(err)
		}
	})
	// Only this test's own process: others may be out of its reach.
	proc := t.TempDir()
	pid := strconv.Itoa(command.Process.Pid)
	for _, name := range []string{pid, "0"} { // and one that is not there
		if err := os.Symlink(filepath.Join("/proc", name), filepath.Join(proc, name)); err != nil {
			t.Fatal(err)
		}
	}
	name, _ := Resolve(program)
	reader := &Reader{Proc: proc, Devices: func(int) (map[int]Device, error) { return map[int]Device{}, nil }}
	// The program is mapped once exec is through.
	var processes []Process
	for range 1000 {
		if processes, err = reader.Processes(t.Context(), changed(name, "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if len(processes) == 1 && processes[0].Program == name {
			break
		}
	}
	if len(processes) != 1 {
		t.Fatalf("%d processes", len(processes))
	}
	p := processes[0]
	mapped := slices.IndexFunc(p.Uses, func(u Use) bool { return u.Path == name && u.Mapped && u.Device != Device{} })
	open := slices.IndexFunc(p.Uses, func(u Use) bool { return u.Path == "etc/passwd" && !u.Mapped })
	if mapped < 0 || open < 0 || !p.SystemRoot || p.Command != "sleep" || strconv.Itoa(p.PID) != pid {
		t.Errorf("%+v", p)
	}
	if len(p.Uses) != 2 {
		t.Errorf("it uses %v; nothing else differs", p.Uses)
	}
}

func TestArgumentsAreAbsolutePaths(t *testing.T) {
	got := arguments("/bin/sh\x00-e\x00/usr/sbin/loop\x00relative\x00/lib/x\x00")
	if strings.Join(got, " ") != "usr/sbin/loop usr/lib/x" {
		t.Errorf("%q", got)
	}
}

// BenchmarkProcesses reads this machine's own processes.
func BenchmarkProcesses(b *testing.B) {
	c := changed(ssl)
	proc := b.TempDir()
	self := strconv.Itoa(os.Getppid())
	for i := range 200 {
		if err := os.Symlink("/proc/"+self, filepath.Join(proc, strconv.Itoa(i+1_000_000))); err != nil {
			b.Fatal(err)
		}
	}
	reader := &Reader{Proc: proc}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reader.Processes(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

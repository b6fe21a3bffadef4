package impact

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
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
	procDir := t.TempDir()
	pid := strconv.Itoa(command.Process.Pid)
	for _, name := range []string{pid, "0"} { // and one that is not there
		if err := os.Symlink(filepath.Join("/proc", name), filepath.Join(procDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	name, _ := Resolve(program)
	reader := &Reader{Proc: procDir}
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
	mapped := slices.IndexFunc(p.Uses,
		func(u Use) bool { return u.Path == name && u.Mapped && u.Device != proc.Device{} })
	open := slices.IndexFunc(p.Uses, func(u Use) bool { return u.Path == "etc/passwd" && !u.Mapped })
	if mapped < 0 || open < 0 || !p.SystemRoot || p.Command != "sleep" || strconv.Itoa(p.PID) != pid {
		t.Errorf("%+v", p)
	}
	if len(p.Uses) != 2 {
		t.Errorf("it uses %v; nothing else differs", p.Uses)
	}
}

// waiting starts a shell that reads a line, which it gets no sooner than the test ends. It returns a proc file system
// of nothing but that process: others may be out of this test's reach.
func waiting(t *testing.T, command *exec.Cmd) (procDir string) {
	t.Helper()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(input.Close(), command.Wait()); err != nil &&
			!strings.Contains(err.Error(), "exit status 1") { // read ended
			t.Errorf("%q: %v", command.Args, err)
		}
	})
	procDir = t.TempDir()
	pid := strconv.Itoa(command.Process.Pid)
	if err := os.Symlink(filepath.Join("/proc", pid), filepath.Join(procDir, pid)); err != nil {
		t.Fatal(err)
	}
	return procDir
}

// Open files are found whichever numbers they have: from the first on, with gaps, or far up, where they are listed.
func TestOpenFilesAreFoundWhateverTheirNumbers(t *testing.T) {
	for name, redirections := range map[string]string{
		"the first numbers": "3</etc/passwd 4</etc/hostname", "with gaps": "5</etc/passwd 9</etc/hostname",
		"far up": "3</etc/hostname 200</etc/passwd",
	} {
		t.Run(name, func(t *testing.T) {
			procDir := waiting(t, exec.Command("bash", "-c", "exec "+redirections+"; read line")) //nolint:gosec // of this test
			var got []string
			for end := time.Now().Add(10 * time.Second); len(got) < 2 &&
				time.Now().Before(end); time.Sleep(time.Millisecond) {
				processes, err := (&Reader{Proc: procDir}).Processes(t.Context(), changed("etc/passwd", "etc/hostname"))
				if err != nil || len(processes) != 1 {
					t.Fatalf("%d processes, %v", len(processes), err)
				}
				got = nil
				for _, use := range processes[0].Uses {
					got = append(got, use.Path)
				}
			}
			if slices.Sort(got); !slices.Equal(got, []string{"etc/hostname", "etc/passwd"}) {
				t.Errorf("it has %q open", got)
			}
		})
	}
}

func TestArgumentsAreFilesThatMayBeScripts(t *testing.T) {
	for _, test := range []struct{ cmdline, want string }{
		{"/bin/sh\x00-e\x00/usr/sbin/loop\x00/lib/x\x00", "usr/sbin/loop usr/lib/x"},
		{"perl\x00./run\x00--fast\x00", "usr/share/app/run"},
		{"/bin/bash\x00-c\x00. /usr/lib/app/env;exec '/usr/lib/app/run' --x \"$(/bin/date)\"\x00",
			"usr/lib/app/env usr/lib/app/run usr/bin/date"},
		{"/usr/bin/perl\x00-ec\x00print 1\x00/usr/share/a\x00", "usr/share/a"},
		{"sh\x00", ""},
		{"", ""},
	} {
		var got []string
		for _, word := range words(test.cmdline) {
			got = append(got, argument(word, "/usr/share/app"))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q names %q, want %q", test.cmdline, got, test.want)
		}
	}
}

// The script of a shell is found by its command line, by the file that it has open, and by the link
// by which it was run.
func TestARealShellsScriptIsFound(t *testing.T) {
	directory, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(directory, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nread line\n:\n"), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	link := filepath.Join(directory, "link")
	if err := os.Symlink("script", link); err != nil {
		t.Fatal(err)
	}
	name, _ := Resolve(script)
	for _, argv := range [][]string{{script}, {link}, {"/usr/bin/env", "sh", link}, {"sh", "./link"},
		{"bash", "-c", ". " + script}} {
		command := exec.Command(argv[0], argv[1:]...)
		command.Dir = directory
		procDir := waiting(t, command)
		found := false
		for end := time.Now().Add(10 * time.Second); !found && time.Now().Before(end); time.Sleep(time.Millisecond) {
			processes, err := (&Reader{Proc: procDir}).Processes(t.Context(), changed(name))
			if err != nil {
				t.Fatal(err)
			}
			for i := range processes {
				processes[i].Unit = "a.service"
			}
			a := Assess(changed(name), Snapshot{Processes: processes}, Policy{})
			found = len(a.Affected) == 1 &&
				a.Affected[0].Reason == "it interprets code that differs" && processes[0].Started > 0
		}
		if !found {
			t.Errorf("%q: its script is not found", argv)
		}
	}
}

// BenchmarkProcesses reads this machine's own processes.
func BenchmarkProcesses(b *testing.B) {
	c := changed(ssl)
	procDir := b.TempDir()
	self := strconv.Itoa(os.Getppid())
	for i := range 200 {
		if err := os.Symlink("/proc/"+self, filepath.Join(procDir, strconv.Itoa(i+1_000_000))); err != nil {
			b.Fatal(err)
		}
	}
	reader := &Reader{Proc: procDir}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reader.Processes(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// Files of a swapped-out /usr are compared once for each path, and remembered code counts while its process lives.
func TestProcessesAreComparedWithWhatIsMounted(t *testing.T) {
	program, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	procDir := waiting(t, exec.Command("bash", "-c", "exec 9</usr/bin/env; read line"))
	var root unix.Stat_t
	if err := unix.Stat(program, &root); err != nil {
		t.Fatal(err)
	}
	// The device that maps shows is the file system's own.
	var devices []proc.Device
	compared := map[string]int{}
	reader := &Reader{Proc: procDir, Compare: func(_ *proc.Process, link, name string) (Version, error) {
		if strings.HasPrefix(link, "map_files/") {
			compared[name]++
		}
		if name == "usr/bin/bash" || name == "usr/bin/env" {
			return Earlier, nil
		}
		return Mounted, nil
	}}
	err = proc.NewScanner(procDir).Each(t.Context(), func(p *proc.Process) error {
		return p.Maps(func(m proc.Mapping) error {
			device, err := m.Device()
			devices = append(devices, device)
			return err
		})
	})
	if err != nil || len(devices) == 0 {
		t.Fatal(devices, err)
	}
	processes, err := reader.Processes(t.Context(), NewChanges())
	if err != nil || len(processes) != 1 || len(processes[0].Uses) != 0 {
		t.Fatalf("nothing was swapped out: %+v, %v", processes, err)
	}
	reader.Swapped = devices
	var got []string
	for end := time.Now().Add(10 * time.Second); len(got) < 2 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if processes, err = reader.Processes(t.Context(), NewChanges()); err != nil || len(processes) != 1 {
			t.Fatalf("%+v, %v", processes, err)
		}
		got = nil
		for _, use := range processes[0].Uses {
			got = append(got, use.Path)
		}
	}
	if slices.Sort(got); !slices.Equal(got, []string{"usr/bin/bash", "usr/bin/env"}) || compared["usr/bin/bash"] == 0 {
		t.Errorf("it uses %q, compared were %v", got, compared)
	}
	started := uint64(0)
	err = proc.NewScanner(procDir).Each(t.Context(), func(p *proc.Process) (err error) {
		started, err = p.Started()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	reader.Swapped = nil
	for ticks, want := range map[uint64]int{started: 1, started + 1: 0} {
		c := NewChanges()
		c.Remember([]Interpreted{{PID: processes[0].PID, Started: ticks, Path: "usr/share/app/run.py"}})
		if processes, err = reader.Processes(t.Context(), c); err != nil || len(processes) != 1 ||
			len(processes[0].Uses) != want {
			t.Errorf("a process that started then: %+v, %v", processes, err)
		}
	}
}

package proc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// systemOf makes a proc file system of the given processes alone: a test may not be allowed to look at others.
func systemOf(t *testing.T, pids ...int) *Scanner {
	t.Helper()
	root := t.TempDir()
	for _, pid := range pids {
		name := strconv.Itoa(pid)
		if err := os.Symlink(filepath.Join("/proc", name), filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return NewScanner(root)
}

// waiting starts a shell that runs a script and then waits for the end of the test.
func waiting(t *testing.T, script string) int {
	t.Helper()
	command := exec.Command("bash", "-c", script+"; echo ready; read line") //nolint:gosec // of this test
	command.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	input, errIn := command.StdinPipe()
	output, errOut := command.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		_ = command.Process.Kill() // it may have ended
		_ = command.Wait()
	})
	if _, err := output.Read(make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	return command.Process.Pid
}

func TestAProcessThatHasEndedIsSkipped(t *testing.T) {
	pid := waiting(t, ":")
	scanner := systemOf(t, pid, 0) // there is no process 0
	var seen []int
	err := scanner.Each(t.Context(), func(p *Process) error {
		if _, err := p.Command(); err != nil {
			return err
		}
		seen = append(seen, p.PID)
		return nil
	})
	if err != nil || !slices.Equal(seen, []int{pid}) {
		t.Errorf("%v, %v", seen, err)
	}
	if err := scanner.Process(0, func(p *Process) error { _, err := p.Command(); return err }); !Ended(err) {
		t.Errorf("process 0: %v", err)
	}
}

func TestAWalkEndsWhenItIsTold(t *testing.T) {
	scanner := systemOf(t, waiting(t, ":"), waiting(t, ":"))
	count := 0
	if err := scanner.Each(t.Context(), func(*Process) error { count++; return fs.SkipAll }); err != nil || count != 1 {
		t.Errorf("%d visits, %v", count, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := scanner.Each(ctx, func(*Process) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context ended: %v", err)
	}
	broken := errors.New("broken")
	if err := scanner.Each(t.Context(), func(*Process) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an error of a visit: %v", err)
	}
}

// Open files are visited once each, whichever numbers they have: from the first on, with gaps, or far up, where they
// are listed.
func TestEachOpenFileIsVisitedOnce(t *testing.T) {
	for name, redirections := range map[string]string{
		"the first numbers": "3</etc/passwd 4</etc/hostname", "with gaps": "5</etc/passwd 9</etc/hostname",
		"far up": "3</etc/hostname 200</etc/passwd",
	} {
		t.Run(name, func(t *testing.T) {
			scanner := systemOf(t, waiting(t, "exec "+redirections))
			var got []string
			err := scanner.Each(t.Context(), func(p *Process) error {
				return p.Files(func(f OpenFile) error {
					path := string(f.Path)
					if path != "/etc/passwd" && path != "/etc/hostname" {
						return nil
					}
					got = append(got, path)
					id, err := p.MountID(f)
					if err != nil {
						return err
					}
					mounts, err := p.Mounts()
					if err != nil {
						return err
					}
					if mounts.ByID(id) == nil {
						t.Errorf("%s is open on mount %d, which is not in the table", path, id)
					}
					return nil
				})
			})
			if slices.Sort(got); err != nil || !slices.Equal(got, []string{"/etc/hostname", "/etc/passwd"}) {
				t.Errorf("it has %q open, %v", got, err)
			}
		})
	}
}

func TestAMappedFileIsReachedByItsLink(t *testing.T) {
	scanner := systemOf(t, waiting(t, ":"))
	found := false
	err := scanner.Each(t.Context(), func(p *Process) error {
		program, err := p.Program()
		if err != nil {
			return err
		}
		name := string(program)
		var link string
		var device Device
		err = p.Maps(func(m Mapping) error {
			if string(m.Path) != name {
				return nil
			}
			link = m.Link()
			device, err = m.Device()
			return err
		})
		if err != nil {
			return err
		}
		mapped, err := p.Stat(link)
		if err != nil {
			return err
		}
		run, err := p.Stat("exe")
		found = mapped.Ino == run.Ino && DeviceOf(mapped.Dev) == device && device.Number() == run.Dev
		return err
	})
	if err != nil || !found {
		t.Errorf("%v, %v", found, err)
	}
}

func TestOnlyLinesOfMapsWithAFileAreMappings(t *testing.T) {
	for line, want := range map[string]Mapping{
		"55d0-55d4 r--p 00000000 fd:01 17   /usr/bin/a b": {Path: []byte("/usr/bin/a b")},
		"55d0-55d4 rw-p 00000000 00:00 0    [anon:a/b]":   {},
		"55d0-55d4 rw-p 00000000 00:00 0 ":                {},
	} {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "7"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "7", "maps"), []byte(line+"\n"+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []Mapping
		err := NewScanner(root).Process(7, func(p *Process) error {
			return p.Maps(func(m Mapping) error {
				device, err := m.Device()
				if device != (Device{Major: 0xfd, Minor: 1}) || m.Link() != "map_files/55d0-55d4" {
					t.Errorf("%q: %v at %s", line, device, m.Link())
				}
				got = append(got, Mapping{Path: slices.Clone(m.Path)})
				return err
			})
		})
		if err != nil || len(got) != min(1, len(want.Path)) ||
			len(got) == 1 && string(got[0].Path) != string(want.Path) {
			t.Errorf("%q: %d mappings, %v", line, len(got), err)
		}
	}
}

func TestDeviceNumbersAreRead(t *testing.T) {
	if device, err := ParseDevice("8:17", 10); err != nil || device != (Device{8, 17}) || device.String() != "8:17" {
		t.Errorf("%v, %v", device, err)
	}
	for _, text := range []string{"", "8", "8:", ":17", "x:1", "8:17:1"} {
		if device, err := ParseDevice(text, 10); err == nil {
			t.Errorf("%q is read as %v", text, device)
		}
	}
}

func TestTheStartAndTheCommandAreReadOfARealProcess(t *testing.T) {
	before := time.Now()
	scanner := systemOf(t, waiting(t, ":"))
	err := scanner.Each(t.Context(), func(p *Process) error {
		command, err := p.Command()
		if err != nil || command != "bash" {
			t.Errorf("command %q, %v", command, err)
		}
		started, err := p.Started()
		var now unix.Timespec
		if clockErr := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); clockErr != nil {
			return clockErr
		}
		ago := time.Duration(now.Nano()) - time.Duration(started)*10*time.Millisecond
		if err != nil || ago < 0 || ago > time.Since(before)+time.Second {
			t.Errorf("it was started %v ago, %v", ago, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUnitOf(t *testing.T) {
	for _, test := range []struct {
		cgroup, unit string
		session      bool
	}{
		{"0::/system.slice/nginx.service\n", "nginx.service", false},
		{"0::/system.slice/system-getty.slice/getty@tty1.service\n", "getty@tty1.service", false},
		{"0::/user.slice/user-0.slice/session-1.scope\n", "session-1.scope", true},
		{"0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n", "user@1000.service", true},
		{"0::/system.slice/docker.service/payload/x.service\n", "docker.service", false},
		{"0::/init.scope\n", "init.scope", false},
		{"0::/\n", "", false},
		{"12:cpu:/x.service\n1:name=systemd:/system.slice/a.service\n0::/\n", "a.service", false},
		{"0::/system.slice/_cpu.service\n", "cpu.service", false},
	} {
		if unit, session := UnitOf(test.cgroup); unit != test.unit || session != test.session {
			t.Errorf("UnitOf(%q) = %q, %v", test.cgroup, unit, session)
		}
	}
}

func TestMapsEndBehindTheLastPageThatThereIs(t *testing.T) {
	const stack = "7ffc62d00000-7ffc62d21000 rw-p 00000000 00:00 0                          [stack]\n"
	const last = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
	for maps, want := range map[string]bool{
		stack + last: true, stack: false, "": false, stack + last[:len(last)-1]: false, stack + last + stack: false,
		stack + "7ffc62d00000-7ffc62d21000 r--p 00000000 fd:01 17   /tmp/ffffffffff600000-ffffffffff601000 --xp [vsyscall]\n": false,
	} {
		if got := lastMapping([]byte(maps)); got != want {
			t.Errorf("%q: %v", maps, got)
		}
	}
}

func TestStartTicksAreReadBehindAnyName(t *testing.T) {
	stat := "17 (a) b) c) S 1 17 17 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 4711 1000 200 18446744073709551615"
	if ticks, err := startTicks(stat); err != nil || ticks != 4711 {
		t.Errorf("%d, %v", ticks, err)
	}
	if _, err := startTicks("17 (a) S 1"); err == nil {
		t.Error("half a line was taken")
	}
}

func TestTheDeviceOfAMapping(t *testing.T) {
	for text, want := range map[string]Device{
		"7f1-7f2 r--p 00000000 fe:01 17   ":      {0xfe, 1},
		"7f1-7f2 r--p 00000000 103:abcde 17":     {0x103, 0xabcde},
		"7f1-7f2 r--p 00000000 ffffffff:00 17":   {0xffffffff, 0},
		"7f1-7f2 r--p 00000000  08:10":           {8, 16},
		"7f1-7f2 r--p 00000000 100000000:00 17 ": {},
		"7f1-7f2 r--p 00000000 08: 17":           {},
		"7f1-7f2 r--p 00000000 08 17":            {},
		"7f1-7f2 r--p 00000000 0g:01 17":         {},
		"7f1-7f2 r--p":                           {},
		"":                                       {},
	} {
		device, err := Mapping{line: []byte(text)}.Device()
		if device != want || (err != nil) != (want == Device{}) {
			t.Errorf("%q: %v, %v", text, device, err)
		}
	}
}

package mounts

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// holding starts a process that does something with a /usr and then waits until it is ended.
func holding(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	command := exec.Command("/bin/sh", "-c", script+"; echo ready; read x")
	command.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	stdin, err := command.StdinPipe() // it waits for it
	must(t, err)
	stdout, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = command.Process.Kill() // it may have ended
		_ = command.Wait()
	})
	_, err = io.ReadFull(stdout, make([]byte, len("ready\n")))
	must(t, err)
	return command
}

// procOf returns a proc file system with these processes alone: here not every process lets this one look at it.
func procOf(t *testing.T, pids ...int) string {
	t.Helper()
	root := t.TempDir()
	for _, pid := range pids {
		must(t, os.Symlink(fmt.Sprintf("/proc/%d", pid), filepath.Join(root, strconv.Itoa(pid))))
	}
	return root
}

func TestWhoeverUsesALayerOfASwappedOutUsrIsFound(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newSystem(t, map[string]string{"usr/share/base": "base", "usr/share/whole/base": "base"},
		map[string]string{"usr/share/delta": "delta"}, map[string]string{"usr/share/next": "next"})
	s.boot(t, s.layers[:2]...)
	present, err := s.usr.cloneCurrent()
	must(t, err)
	devices, err := present.Devices(s.layers[:2], "usr")
	must(t, err)
	of, err := present.LayerDevices(s.layers[:2], "usr")
	must(t, err)
	must(t, present.Close())
	base, delta := []Shown{{System: devices[0], Files: of[:1]}}, []Shown{{System: devices[0], Files: of[1:]}}
	either := []Shown{{System: devices[0], Files: devices}}
	map_ := func(name string) string {
		return "exec python3 -c 'import mmap,sys;f=open(\"" + s.usr.Path + name +
			"\");m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ);f.close();print(\"ready\",flush=True);sys.stdin.read()'"
	}
	uses := []struct {
		script, how     string
		ofBase, ofDelta bool
		pid             int
	}{
		{script: "exec 3<" + s.usr.Path + "/share/delta", how: "has open", ofDelta: true},
		{script: "exec 3<" + s.usr.Path + "/share/base", how: "has open", ofBase: true},
		{script: map_("/share/delta"), how: "maps", ofDelta: true},
		{script: map_("/share/base"), how: "maps", ofBase: true},
		// A directory leads to what any of the layers has in it.
		{script: "cd " + s.usr.Path + "/share", how: "works in", ofBase: true, ofDelta: true},
		{script: "exec 3<" + s.usr.Path + "/share/whole", how: "has open", ofBase: true, ofDelta: true},
		{script: ":"},
	}
	var pids []int
	for i := range uses {
		uses[i].pid = holding(t, uses[i].script).Process.Pid
		pids = append(pids, uses[i].pid)
	}
	next, err := s.usr.Build(t.Context(), s.layers[2:])
	must(t, err)
	swapped, err := s.usr.Swap(next)
	must(t, err)
	must(t, swapped.Previous.Close())
	procRoot := procOf(t, pids...)
	check := func(name string, shown []Shown, is func(i int) bool) {
		users, err := UsersOf(t.Context(), procRoot, shown, 20)
		must(t, err)
		for i, use := range uses {
			at := slices.IndexFunc(users, func(u User) bool { return u.PID == use.pid })
			if found := at >= 0; found != is(i) || found && users[at].How != use.how {
				t.Errorf("%s: process %d, which %s, is found: %v among %+v", name, use.pid, use.script, found, users)
			}
		}
	}
	check("base", base, func(i int) bool { return uses[i].ofBase })
	check("delta", delta, func(i int) bool { return uses[i].ofDelta })
	check("either", either, func(i int) bool { return uses[i].how != "" })
	if some, err := UsersOf(t.Context(), procRoot, either, 2); err != nil || len(some) != 2 {
		t.Errorf("at most two: %+v, %v", some, err)
	}
}

func TestALoopDeviceOnAFileOfALayerIsFound(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newSystem(t, map[string]string{"usr/share/base": strings.Repeat("b", 4096)},
		map[string]string{"usr/share/image": strings.Repeat("i", 4096)})
	s.boot(t, s.layers...)
	present, err := s.usr.cloneCurrent()
	must(t, err)
	defer func() { must(t, present.Close()) }()
	of, err := present.LayerDevices(s.layers, "usr")
	must(t, err)
	output, err := exec.Command("losetup", "--read-only", "--show", "-f", s.usr.Path+"/share/image").Output()
	must(t, err)
	device := strings.TrimSpace(string(output))
	detach := sync.OnceValue(func() error { return exec.Command("losetup", "-d", device).Run() })
	defer func() { must(t, detach()) }()
	for i, want := range [][]string{nil, {device}} {
		if got, err := LoopsOn([]Shown{{Files: of[i : i+1]}}); err != nil || !slices.Equal(got, want) {
			t.Errorf("on layer %d: %v, %v, want %v", i, got, err, want)
		}
	}
	must(t, detach())
	if got, err := LoopsOn([]Shown{{Files: of}}); err != nil || len(got) > 0 {
		t.Errorf("after it was detached: %v, %v", got, err)
	}
}

package mounts

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

func TestWhoeverUsesASwappedOutUsrIsFound(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newSystem(t, map[string]string{"usr/share/base": "base"}, map[string]string{"usr/share/delta": "delta"},
		map[string]string{"usr/share/next": "next"})
	s.boot(t, s.layers[:2]...)
	present, err := s.usr.cloneCurrent()
	must(t, err)
	devices, err := present.Devices(s.layers[:2], "usr")
	must(t, err)
	must(t, present.Close())
	want := map[int]string{}
	for how, script := range map[string]string{
		"has open of the delta": "exec 3<" + s.usr.Path + "/share/delta",
		"has open of the base":  "exec 3<" + s.usr.Path + "/share/base",
		"works in":              "cd " + s.usr.Path + "/share",
	} {
		want[holding(t, script).Process.Pid] = how
	}
	none := holding(t, ":").Process.Pid
	next, err := s.usr.Build(t.Context(), s.layers[2:])
	must(t, err)
	swapped, err := s.usr.Swap(next)
	must(t, err)
	must(t, swapped.Previous.Close())
	// Here not every process lets this one look at it; in a guest they do.
	procRoot := t.TempDir()
	for _, pid := range append(slices.Collect(maps.Keys(want)), none) {
		must(t, os.Symlink(fmt.Sprintf("/proc/%d", pid), filepath.Join(procRoot, strconv.Itoa(pid))))
	}
	users, err := UsersOf(t.Context(), procRoot, devices, 20)
	must(t, err)
	for _, user := range users {
		how, mine := want[user.PID]
		if mine && !strings.HasPrefix(how, user.How) || user.PID == none {
			t.Errorf("%+v, which %s", user, how)
		}
		delete(want, user.PID)
	}
	if len(want) > 0 {
		t.Errorf("not found: %v; found are %+v", want, users)
	}
	if some, err := UsersOf(t.Context(), procRoot, devices, 2); err != nil || len(some) != 2 {
		t.Errorf("at most two: %+v, %v", some, err)
	}
}

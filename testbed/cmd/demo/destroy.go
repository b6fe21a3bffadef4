package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// rest applies once more: nothing may be left to do.
func (d *demo) rest(ctx context.Context) error {
	d.out.title("Apply 7: nothing is left to do")
	p, err := d.work.Plan(ctx)
	if err != nil {
		return err
	}
	var left []string
	for _, c := range p.Changes {
		if !c.Is("no-op") && !c.Is("read") {
			left = append(left, c.Address+": "+strings.Join(c.Change.Actions, " then "))
		}
	}
	d.out.claim(len(left) == 0, "the plan is empty", "to do: %s", list(left))
	return d.work.Apply(ctx, p)
}

// destroy destroys everything and looks for leftovers.
func (d *demo) destroy(ctx context.Context) error {
	d.out.title("Destroy")
	if err := d.work.Destroy(ctx); err != nil {
		return err
	}
	domains, err := d.host.Fleet.Hypervisor.List(ctx)
	if err != nil {
		return err
	}
	volumes, err := d.host.Store.Volumes(ctx)
	if err != nil {
		return err
	}
	// The pool is made with its first volume and deleted with its last; a console log is deleted with its VM.
	var files []string
	for _, dir := range []string{d.pool, filepath.Join(d.bed.StateDir(), "console")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for what is left: %w", err)
		}
		for _, entry := range entries {
			files = append(files, filepath.Join(dir, entry.Name()))
		}
	}
	pools, err := filepath.Glob(filepath.Join(d.bed.Dir(), "etc", "storage", "*.xml"))
	if err != nil {
		return err
	}
	guests, err := processes(d.dir, "qemu-system", "vhost-device-vsock")
	if err != nil {
		return err
	}
	d.out.claim(len(domains) == 0, "no domain is left", "%d", len(domains))
	d.out.claim(len(volumes) == 0 && len(pools) == 0, "no volume and no storage pool is left", "%d volumes, pools: %s",
		len(volumes), list(pools))
	d.out.claim(len(files) == 0, "no file is left", "%s", list(files))
	d.out.claim(len(guests) == 0, "no process is left", "%s", list(guests))
	return nil
}

// nothingRuns returns an error that names every process that still uses a directory of the demo after its end.
func nothingRuns(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left, err := processes(dir)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes are left behind: %s", list(left))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// processes names those whose command line has the directory in it, and, if programs are given, one of them.
func processes(dir string, programs ...string) ([]string, error) {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var named []string
	for _, path := range found {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		arguments := bytes.Split(line, []byte{0})
		program := filepath.Base(string(arguments[0]))
		if !bytes.Contains(line, []byte(dir)) || len(programs) > 0 && !hasPrefix(program, programs) {
			continue
		}
		named = append(named, fmt.Sprintf("%s (pid %d)", program, pid))
	}
	return named, nil
}

func hasPrefix(name string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

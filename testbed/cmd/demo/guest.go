package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

const (
	// loginLimit bounds how long sshd, which the patch restarts, may refuse logins.
	loginLimit = time.Minute
	// maxListed is how many differences are printed.
	maxListed = 5
)

// ask runs a command as root in a VM, over SSH. Nothing of this project answers there.
func (d *demo) ask(ctx context.Context, name, command string, stdin []byte) (string, error) {
	at, err := d.forwards(ctx, name)
	if err != nil {
		return "", err
	}
	waiting, cancel := context.WithTimeout(ctx, loginLimit)
	defer cancel()
	for {
		text, err := d.key.Run(ctx, at[guestSSH], command, bytes.NewReader(stdin))
		if !errors.Is(err, guest.ErrLogin) || waiting.Err() != nil {
			return text, err
		}
		select {
		case <-waiting.Done():
			return "", err
		case <-time.After(time.Second):
		}
	}
}

// inspect compares a VM with the release that it is to run, by what the VM's own programs say: the package
// database, the files that the patch changed, and what the running processes were started from and map.
func (d *demo) inspect(ctx context.Context, w *watched, base tree.Digest) error {
	manifest, err := d.host.Publisher.Get(ctx, base)
	if err != nil {
		return err
	}
	listed, err := d.ask(ctx, w.name, `dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n'`, nil)
	if err != nil {
		return err
	}
	wrong := otherPackages(manifest.Packages, listed)
	d.out.claim(len(wrong) == 0, w.name+"'s dpkg lists the packages of the release", "%d packages; others: %s",
		len(manifest.Packages), few(wrong))

	changed, err := d.changedFiles(ctx, w.before.Stack.Base, base)
	if err != nil {
		return err
	}
	var paths bytes.Buffer
	for _, e := range changed {
		fmt.Fprintf(&paths, "/%s\n", e.Path)
	}
	files, err := d.ask(ctx, w.name, `xargs -d '\n' stat -c '%a %u %g %s %n' 2>/dev/null; true`, paths.Bytes())
	if err != nil {
		return err
	}
	wrong = otherFiles(changed, files)
	d.out.claim(len(wrong) == 0, w.name+"'s files have the release's owners, modes and sizes",
		"%d changed files; others: %s", len(changed), few(wrong))

	code := map[string]tree.Digest{}
	for _, e := range changed {
		if isCode(e) {
			code["/"+e.Path] = e.Digest
		}
	}
	running, err := d.ask(ctx, w.name, `ls -l /proc/[0-9]*/exe /proc/[0-9]*/map_files 2>/dev/null; true`, nil)
	if err != nil {
		return err
	}
	uses := mappedCode(running, code)
	var links bytes.Buffer
	for link := range uses {
		fmt.Fprintln(&links, link)
	}
	// Processes have ended since, those of the last command among them.
	sums, err := d.ask(ctx, w.name, `xargs -r -d '\n' sha256sum 2>/dev/null; true`, links.Bytes())
	if err != nil {
		return err
	}
	now, err := d.host.Fleet.Read(ctx, w.name)
	if err != nil {
		return err
	}
	wrong, same, told := otherCode(uses, code, sums, now.Agent.GetRemaining())
	d.out.claim(len(wrong) == 0 && same > 0,
		w.name+"'s /proc shows the release's code, or an old one that the VM reports",
		"%d uses of %d changed programs and libraries, %d reported; others: %s", same, len(code), told, few(wrong))
	return nil
}

// changedFiles returns the regular files of /usr that a release adds to an earlier one or changes,
// without the kernel's.
func (d *demo) changedFiles(ctx context.Context, before, after tree.Digest) ([]tree.Entry, error) {
	old, err := d.contents(ctx, before)
	if err != nil {
		return nil, err
	}
	is, err := d.contents(ctx, after)
	if err != nil {
		return nil, err
	}
	var changed []tree.Entry
	err = release.DiffContents(old, is, func(name string, _, new *tree.Entry) error {
		if new != nil && new.Type == tree.Regular && strings.HasPrefix(name, "usr/") &&
			!strings.HasPrefix(name, "usr/lib/modules/") {
			changed = append(changed, *new)
		}
		return nil
	})
	return changed, err
}

// otherPackages compares packages with lines "name version status".
func otherPackages(packages []release.Package, listed string) (wrong []string) {
	has := map[string]string{}
	for line := range strings.Lines(listed) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[2] == "installed" {
			has[fields[0]] = fields[1]
		}
	}
	for _, p := range packages {
		name, _, _ := strings.Cut(p.Name, ":") // with an architecture, as dpkg shows a package of several
		if has[name] != p.Version {
			wrong = append(wrong, fmt.Sprintf("%s %s instead of %s", p.Name, has[name], p.Version))
		}
		delete(has, name)
	}
	for name, version := range has {
		wrong = append(wrong, name+" "+version+" instead of none")
	}
	slices.Sort(wrong)
	return wrong
}

// otherFiles compares files with lines "mode uid gid size path", the mode in octal digits.
func otherFiles(files []tree.Entry, listed string) (wrong []string) {
	has := map[string]string{}
	for line := range strings.Lines(listed) {
		if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 5); len(fields) == 5 {
			has[fields[4]] = strings.Join(fields[:4], " ")
		}
	}
	for _, e := range files {
		want := fmt.Sprintf("%s %d %d %d", strconv.FormatUint(uint64(e.Mode), 8), e.UID, e.GID, e.Size)
		if is := has["/"+e.Path]; is != want {
			wrong = append(wrong, fmt.Sprintf("/%s is %q instead of %q", e.Path, is, want))
		}
	}
	return wrong
}

// mappedCode reads a listing of /proc/<pid>/exe and /proc/<pid>/map_files. It returns the links to
// changed code, one for each process and file, with the path of the file. The kernel shows files of
// a /usr that was swapped out without the "/usr".
func mappedCode(listed string, code map[string]tree.Digest) map[string]string {
	uses := map[string]string{}
	seen := map[string]bool{}
	directory := ""
	for line := range strings.Lines(listed) {
		line = strings.TrimSuffix(line, "\n")
		if header, is := strings.CutSuffix(line, ":"); is && strings.HasPrefix(header, "/proc/") {
			directory = header
			continue
		}
		before, target, is := strings.Cut(line, " -> ")
		if !is {
			continue
		}
		name := before[strings.LastIndexByte(before, ' ')+1:]
		if !strings.HasPrefix(name, "/") {
			name = path.Join(directory, name)
		}
		target = strings.TrimSuffix(target, " (deleted)")
		for _, file := range []string{target, "/usr" + target} {
			process := strings.Split(name, "/")[2]
			if _, changed := code[file]; changed && !seen[process+" "+target] {
				seen[process+" "+target] = true
				uses[name] = file
			}
		}
	}
	return uses
}

// otherCode compares uses with lines "digest  link" of sha256sum(1). A process that has ended has no line. remaining
// are the processes that the VM reports to run old code ("unit pid path"): told counts what they use, and wrong lists
// what others do.
func otherCode(uses map[string]string, code map[string]tree.Digest, sums string,
	remaining []string) (wrong []string, same, told int) {
	reported := map[string]bool{}
	for _, line := range remaining {
		if fields := strings.Fields(line); len(fields) > 1 {
			reported[fields[1]] = true
		}
	}
	for line := range strings.Lines(sums) {
		sum, link, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		file, asked := uses[link]
		switch {
		case !asked:
		case sum == code[file].Hex():
			same++
		case reported[strings.Split(link, "/")[2]]:
			told++
		default:
			wrong = append(wrong, fmt.Sprintf("%s is another %s", link, file))
		}
	}
	slices.Sort(wrong)
	return wrong, same, told
}

// few joins the first of many differences.
func few(all []string) string {
	if len(all) > maxListed {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxListed], ", "), len(all)-maxListed)
	}
	return list(all)
}

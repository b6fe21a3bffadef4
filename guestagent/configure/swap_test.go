package configure_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

func swap(mebibytes int64) func(*guestconfig.Document) {
	return func(d *guestconfig.Document) { d.Swap = mebibytes << 20 }
}

// A swap file is made without holes, grows, shrinks and goes while the guest runs.
func TestASwapFileIsMadeChangedAndRemoved(t *testing.T) {
	s := newSystem(t)
	before := s.all()
	const start, withdraw = "start " + guestconfig.SwapUnit, "withdraw " + guestconfig.SwapUnit
	for _, step := range []struct {
		mebibytes int64
		did       []string
	}{
		{4, []string{"reload systemd", start}}, {4, nil}, {8, []string{withdraw, start}}, {2, []string{withdraw, start}}, {0, []string{withdraw, "reload systemd"}},
	} {
		s.mustGive(swap(step.mebibytes))
		s.mustHaveDone(step.did...)
		if step.mebibytes == 0 {
			break
		}
		info, err := os.Stat(filepath.Join(s.root, guestconfig.SwapFile))
		must(t, err)
		allocated := info.Sys().(*syscall.Stat_t).Blocks * 512
		if info.Size() != step.mebibytes<<20 || allocated < info.Size() || info.Mode().Perm() != 0o600 ||
			!s.active[guestconfig.SwapUnit] {
			t.Errorf("of %d MiB: it has %d bytes, %d of them allocated, and mode %v", step.mebibytes,
				info.Size(), allocated, info.Mode())
		}
		header := s.has(guestconfig.SwapFile)[:os.Getpagesize()]
		if pages := binary.NativeEndian.Uint32([]byte(header[1028:])); !strings.HasSuffix(header, "SWAPSPACE2") ||
			int64(pages+1)*int64(len(header)) != info.Size() {
			t.Errorf("its header tells of %d pages", pages)
		}
		if link := s.has("etc/systemd/system/swap.target.wants/" + guestconfig.SwapUnit); link != "->../"+
			guestconfig.SwapUnit {
			t.Errorf("boots take it into use by %q", link)
		}
	}
	if after := s.all(); after != before || s.active[guestconfig.SwapUnit] {
		t.Errorf("it has\n%s\nand before\n%s", after, before)
	}
}

func TestASwapFileThatCannotBeChangedIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(s *system)
		want    int64
		says    string
	}{
		"its pages do not fit into the memory": {func(s *system) {
			s.mustGive(swap(4))
			s.write("proc/swaps", "Filename Type Size Used Priority\n"+guestconfig.SwapFile+" file 4096 102401 -2\n")
		}, 0, "100 MiB of memory"},
		"the disk is too small":   {func(*system) {}, guestconfig.MaxSwap >> 20, "private disk"},
		"a file of somebody else": {func(s *system) { s.write(guestconfig.SwapFile, "mine") }, 4, "has not written"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			test.prepare(s)
			before := s.all()
			if _, err := s.give(swap(test.want)); !errors.Is(err, configure.ErrRefused) ||
				!strings.Contains(err.Error(), test.says) || s.all() != before {
				t.Errorf("it is %v", err)
			}
			if len(s.did) > 0 {
				t.Errorf("it did %v", s.did)
			}
		})
	}
}

func TestASwapFileThatStaysInUseIsAsBefore(t *testing.T) {
	s := newSystem(t)
	s.mustGive(swap(4))
	before := s.all()
	s.fails["withdraw "+guestconfig.SwapUnit] = errors.New("no memory")
	if _, err := s.give(swap(2)); !errors.Is(err, configure.ErrTakenBack) || s.all() != before ||
		!s.active[guestconfig.SwapUnit] {
		t.Errorf("it is %v, and it has\n%s", err, s.all())
	}
}

func TestASwapFileThatIsNotInUseIsToldAndPutBack(t *testing.T) {
	s := newSystem(t)
	s.mustGive(swap(4))
	s.active[guestconfig.SwapUnit] = false
	must(t, os.Remove(filepath.Join(s.root, guestconfig.SwapFile)))
	if drift := s.drift(); len(drift) != 1 || !strings.Contains(drift[guestconfig.SwapUnit], "0 MiB") {
		t.Errorf("it tells %v", drift)
	}
	s.mustGive(swap(4))
	if !slices.Contains(s.did, "start "+guestconfig.SwapUnit) || len(s.drift()) != 0 {
		t.Errorf("it did %v and tells %v", s.did, s.drift())
	}
}

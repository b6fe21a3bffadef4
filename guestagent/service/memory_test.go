package service

import "testing"

func TestOnlyPagesThatComeBackAreGivenBack(t *testing.T) {
	for _, test := range []struct {
		line          string
		start, length uintptr
	}{
		{"00400000-007cf000 r-xp 00000000 00:19 1234 /run/sharedos/bin/agent\n", 0x400000, 0x3cf000},
		{"007cf000-00ba6000 r--p 003cf000 00:19 1234 /run/sharedos/bin/agent\n", 0x7cf000, 0x3d7000},
		{"00ba6000-00bda000 rw-p 007a6000 00:19 1234 /run/sharedos/bin/agent\n", 0, 0},
		{"00ba6000-00bda000 r--s 007a6000 00:19 1234 /run/sharedos/bin/agent\n", 0, 0},
		{"00ba6000-00bda000 r--p 007a6000 00:19 1234 /usr/lib/libc.so.6\n", 0, 0},
		{"c000000000-c000400000 rw-p 00000000 00:00 0\n", 0, 0},
		{"00bda000-00ba6000 r--p 003cf000 00:19 1234 /run/sharedos/bin/agent\n", 0, 0},
		{"", 0, 0},
	} {
		start, length, ok := ownPages(test.line, "/run/sharedos/bin/agent")
		if start != test.start || length != test.length || ok != (test.length > 0) {
			t.Errorf("%q: %#x, %#x, %v", test.line, start, length, ok)
		}
	}
}

func TestProgramGoesOnAfterGivingBack(t *testing.T) {
	for range 10 {
		if err := giveBack(); err != nil {
			t.Fatal(err)
		}
	}
}

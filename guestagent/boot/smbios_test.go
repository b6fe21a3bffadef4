package boot

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// structure is one SMBIOS structure with its string set.
func structure(kind byte, body []byte, texts ...string) []byte {
	table := append([]byte{kind, byte(smbiosHeader + len(body)), 0, 0}, body...)
	for _, text := range texts {
		table = append(append(table, text...), 0)
	}
	if len(texts) == 0 {
		table = append(table, 0)
	}
	return append(table, 0)
}

func TestOEMStringsAreFoundAmongOtherStructures(t *testing.T) {
	end := structure(smbiosEnd, nil)
	for name, test := range map[string]struct {
		table []byte
		want  []string
	}{
		"empty table":    {nil, nil},
		"no OEM strings": {append(structure(1, make([]byte, 23), "maker", "model"), end...), nil},
		"one string":     {append(structure(11, []byte{1}, "a=b"), end...), []string{"a=b"}},
		"several, in order": {append(structure(11, []byte{2}, "one", "two"), structure(11, []byte{1}, "three")...),
			[]string{"one", "two", "three"}},
		"structure without any": {append(structure(11, []byte{0}), end...), nil},
		"after the end":         {append(end, structure(11, []byte{1}, "late")...), nil},
		"after another": {bytes.Join([][]byte{
			structure(1, make([]byte, 23), "maker"), structure(32, make([]byte, 7)), structure(11, []byte{1}, "x"), end,
		}, nil), []string{"x"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := oemStrings(test.table)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestOEMStringsRefusesAMalformedTable(t *testing.T) {
	for name, table := range map[string][]byte{
		"length below the header":  {11, 3, 0, 0, 0, 0},
		"structure past the table": {11, 200, 0, 0, 1},
		"string without an end":    append([]byte{11, 5, 0, 0, 1}, "endless"...),
		"set without an end":       append([]byte{11, 5, 0, 0, 1}, "text\x00"...),
		"no set at all":            {11, 4, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := oemStrings(table); !errors.Is(err, errSMBIOS) {
				t.Errorf("got %v, want errSMBIOS", err)
			}
		})
	}
}

func TestOEMStringsReadsBackWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ -~]{1,300}`)
		var table []byte
		var want []string
		for range rapid.IntRange(0, 8).Draw(t, "structures") {
			kind := rapid.SampledFrom([]byte{0, 1, 4, 11, 11, 16}).Draw(t, "kind")
			texts := rapid.SliceOfN(text, 0, 5).Draw(t, "texts")
			body := rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "body")
			table = append(table, structure(kind, body, texts...)...)
			if kind == smbiosOEMStrings {
				want = append(want, texts...)
			}
		}
		table = append(table, structure(smbiosEnd, nil)...)
		got, err := oemStrings(table)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Join(want, "\x00") != strings.Join(got, "\x00") || len(want) != len(got) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func FuzzOEMStrings(f *testing.F) {
	f.Add([]byte{})
	f.Add(structure(11, []byte{1}, "sharedos.boot={}"))
	f.Add(append(structure(1, make([]byte, 23), "maker", "model"), structure(smbiosEnd, nil)...))
	f.Add([]byte{11, 200, 0, 0, 1})
	f.Fuzz(func(t *testing.T, table []byte) {
		found, err := oemStrings(table)
		if err != nil && !errors.Is(err, errSMBIOS) {
			t.Errorf("unexpected error %v", err)
		}
		total := 0
		for _, text := range found {
			total += len(text) + 1
		}
		if total > len(table) {
			t.Errorf("%d bytes of strings in a table of %d", total, len(table))
		}
	})
}

package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestAHistoryComesBackAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := History{Retain: rapid.IntRange(0, 9).Draw(t, "retain")}
		for i := range rapid.IntRange(1, 9).Draw(t, "releases") {
			one := Listed{ID: tree.Sum([]byte{byte(i)})}
			if seconds := rapid.Int64Range(0, 1<<34).Draw(t, "published"); seconds > 0 {
				one.Published = time.Unix(seconds, 0).UTC()
			}
			want.Releases = append(want.Releases, one)
		}
		text, err := EncodeHistory(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeHistory(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// Pools hold records of before times and numbers were recorded.
func TestAHistoryOfIDsAloneIsRead(t *testing.T) {
	a, b := tree.Sum([]byte("a")), tree.Sum([]byte("b"))
	got, err := DecodeHistory(fmt.Appendf(nil, "%s\n%s\n", a, b))
	if diff := cmp.Diff(HistoryOf(a, b), got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestAHistoryThatWasDamagedIsRefused(t *testing.T) {
	id := tree.Sum([]byte("a")).String()
	for _, text := range []string{
		"", "retain 3", "retain x\n" + id, "retain -1\n" + id, id + "\n\n", id + " yesterday\n",
		"sha256:12\n", id + "\nretain 3\n",
	} {
		if got, err := DecodeHistory([]byte(text)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q is read as %v, %v", text, got, err)
		}
	}
}

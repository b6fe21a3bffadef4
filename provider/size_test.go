package provider

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/types"
	"pgregory.net/rapid"
)

func TestSizesAreRead(t *testing.T) {
	for text, want := range map[string]int64{
		"0B": 0, "1B": 1, "1KiB": 1 << 10, "512MiB": 512 << 20, "4GiB": 4 << 30, "2TiB": 2 << 40, "007MiB": 7 << 20,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d bytes, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "512", "512MB", "512 MiB", "1.5GiB", "-1MiB", "+1MiB", "1MiBMiB", "1iB",
		"1KB", "0x1MiB", "1_0MiB", "1M"} {
		if got, err := parseSize(text); !errors.Is(err, errSize) {
			t.Errorf("%q is read as %d bytes, %v", text, got, err)
		}
	}
	for _, text := range []string{"9223372036854775808B", "8388608TiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is read as %d bytes", text, got)
		}
	}
}

func TestASizeSurvivesWritingAndReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.Int64Range(0, math.MaxInt64).Draw(t, "bytes")
		if got, err := parseSize(formatSize(bytes)); err != nil || got != bytes {
			t.Fatalf("%d is written %q and read %d, %v", bytes, formatSize(bytes), got, err)
		}
	})
}

func TestDifferentTextsForOneSizeAreEqual(t *testing.T) {
	a, b := sizeValue{types.StringValue("1GiB")}, sizeValue{types.StringValue("1024MiB")}
	if same, diags := a.StringSemanticEquals(context.Background(), b); !same || diags.HasError() {
		t.Errorf("1GiB and 1024MiB differ: %v", diags)
	}
	for _, other := range []sizeValue{newSize(1), {types.StringNull()}, {types.StringUnknown()},
		{types.StringValue("1GB")}} {
		if same, _ := a.StringSemanticEquals(context.Background(), other); same {
			t.Errorf("1GiB is the same as %s", other)
		}
	}
}

package provider

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/attr/xattr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
)

// errSize means that a text is not a size.
var errSize = errors.New(
	`not a size: write a whole number and one of the units B, KiB, MiB, GiB and TiB, as in "512MiB"`)

// sizeUnits, largest first.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// parseSize reads a size in bytes. Only binary units are accepted, because "MB" is ambiguous.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "BKMGTi")
	number, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		shown, _ := plain.Value(text)
		return 0, fmt.Errorf("%s is %w", shown, errSize)
	}
	for _, unit := range sizeUnits {
		if text[len(digits):] != unit.name {
			continue
		}
		if int64(number) > math.MaxInt64/unit.bytes {
			return 0, fmt.Errorf("%q is larger than any disk: the limit is %s", text, formatSize(math.MaxInt64))
		}
		return int64(number) * unit.bytes, nil
	}
	shown, _ := plain.Value(text)
	return 0, fmt.Errorf("%s is %w", shown, errSize)
}

// formatSize formats a size in the largest unit in which it is a whole number.
func formatSize(bytes int64) string {
	for _, unit := range sizeUnits {
		if bytes != 0 && bytes%unit.bytes == 0 {
			return strconv.FormatInt(bytes/unit.bytes, 10) + unit.name
		}
	}
	return "0B"
}

// sizeType is the type of attributes that are a size. Different texts for the same size are semantically equal.
type sizeType struct{ basetypes.StringType }

var _ basetypes.StringTypable = sizeType{}

func (t sizeType) Equal(other attr.Type) bool {
	o, ok := other.(sizeType)
	return ok && t.StringType.Equal(o.StringType)
}

func (t sizeType) String() string { return "size" }

func (t sizeType) ValueType(context.Context) attr.Value { return sizeValue{} }

func (t sizeType) ValueFromString(_ context.Context,
	in basetypes.StringValue) (basetypes.StringValuable, diag.Diagnostics) {
	return sizeValue{in}, nil
}

func (t sizeType) ValueFromTerraform(ctx context.Context, in tftypes.Value) (attr.Value, error) {
	value, err := t.StringType.ValueFromTerraform(ctx, in)
	if err != nil {
		return nil, err
	}
	text, ok := value.(basetypes.StringValue)
	if !ok {
		return nil, fmt.Errorf("a size is a string, not %T", value)
	}
	return sizeValue{text}, nil
}

// sizeValue is a size as the user wrote it.
type sizeValue struct{ basetypes.StringValue }

var (
	_ basetypes.StringValuableWithSemanticEquals = sizeValue{}
	_ xattr.ValidateableAttribute                = sizeValue{}
)

func newSize(bytes int64) sizeValue { return sizeValue{basetypes.NewStringValue(formatSize(bytes))} }

// Bytes returns the size in bytes; 0 if it is null, unknown or invalid.
func (v sizeValue) Bytes() int64 {
	bytes, err := parseSize(v.ValueString())
	if err != nil {
		return 0
	}
	return bytes
}

func (v sizeValue) Type(context.Context) attr.Type { return sizeType{} }

func (v sizeValue) Equal(other attr.Value) bool {
	o, ok := other.(sizeValue)
	return ok && v.StringValue.Equal(o.StringValue)
}

// same reports whether both are known and the same size.
func (v sizeValue) same(o sizeValue) bool {
	a, errA := parseSize(v.ValueString())
	b, errB := parseSize(o.ValueString())
	return errA == nil && errB == nil && a == b
}

// StringSemanticEquals makes "1GiB" and "1024MiB" equal.
func (v sizeValue) StringSemanticEquals(_ context.Context, other basetypes.StringValuable) (bool, diag.Diagnostics) {
	o, ok := other.(sizeValue)
	return ok && v.same(o), nil
}

// ValidateAttribute refuses texts that are not a size.
func (v sizeValue) ValidateAttribute(_ context.Context, req xattr.ValidateAttributeRequest,
	resp *xattr.ValidateAttributeResponse) {
	if v.IsNull() || v.IsUnknown() {
		return
	}
	if _, err := parseSize(v.ValueString()); err != nil {
		resp.Diagnostics.AddAttributeError(req.Path, "Unable to read a size", sentence(err))
	}
}

// sizeAtLeast accepts a whole number of MiB that is at least so many bytes.
func sizeAtLeast(bytes int64) textRule {
	return textRule{
		form: "at least " + formatSize(bytes) + ", and a whole number of MiB",
		check: func(text string) error {
			size, err := parseSize(text)
			switch {
			case err != nil:
				return nil // the type reports it
			case size < bytes:
				return fmt.Errorf("%s is too small", text)
			case size%(1<<20) != 0:
				return fmt.Errorf("%s is no whole number of MiB", text)
			default:
				return nil
			}
		},
	}
}

package provider

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
)

// privateUnfinished is the key in private state of the step at which a Create ended that did not finish; null when
// it has. The next apply goes on from there, in place.
const privateUnfinished = "unfinished"

// isUnfinished reports whether private state tells of a Create that did not finish.
func isUnfinished(ctx context.Context, private privateState) (bool, diag.Diagnostics) {
	stored, diags := private.GetKey(ctx, privateUnfinished)
	if diags.HasError() || len(stored) == 0 {
		return false, diags
	}
	var step *string
	if err := json.Unmarshal(stored, &step); err != nil {
		return false, append(diags, failed(failure{do: "read the private state of", object: "a VM", err: err})...)
	}
	return step != nil, diags
}

// privateWriter is private state that can be written.
type privateWriter interface {
	SetKey(ctx context.Context, key string, value []byte) diag.Diagnostics
}

// markUnfinished notes the step at which a Create ended.
func markUnfinished(ctx context.Context, private privateWriter, step string) diag.Diagnostics {
	text, err := json.Marshal(step)
	if err != nil {
		return failed(failure{do: "write the private state of", object: "a VM", err: err})
	}
	return private.SetKey(ctx, privateUnfinished, text)
}

// markFinished notes that a Create has finished.
func markFinished(ctx context.Context, private privateWriter) diag.Diagnostics {
	return private.SetKey(ctx, privateUnfinished, []byte("null"))
}

// newUUID makes a random UUID, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program before it returns an error
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

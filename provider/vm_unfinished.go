package provider

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
)

// privateUnfinished is a key in private state. Its value is the step at which Create was interrupted, so that the next
// apply finishes the VM in place; null if Create has finished.
const privateUnfinished = "unfinished"

// isUnfinished reports whether Create was interrupted, according to private state.
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

// privateWriter is writable private state.
type privateWriter interface {
	SetKey(ctx context.Context, key string, value []byte) diag.Diagnostics
}

// markUnfinished records the step at which Create was interrupted.
func markUnfinished(ctx context.Context, private privateWriter, step string) diag.Diagnostics {
	text, err := json.Marshal(step)
	if err != nil {
		return failed(failure{do: "write the private state of", object: "a VM", err: err})
	}
	return private.SetKey(ctx, privateUnfinished, text)
}

// markFinished records that Create has finished.
func markFinished(ctx context.Context, private privateWriter) diag.Diagnostics {
	return private.SetKey(ctx, privateUnfinished, []byte("null"))
}

// newUUID returns a random UUID, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never returns an error (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

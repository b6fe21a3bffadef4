package provider

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
)

// Defaults of the timeouts attribute. Each bounds one operation as a whole.
const (
	// A base may have to be downloaded and built.
	baseWriteTimeout = time.Hour
	// A VM boots under emulation in under a minute; ten leave room for a slow host.
	vmWriteTimeout = 10 * time.Minute
	deleteTimeout  = 10 * time.Minute
	readTimeout    = 2 * time.Minute
	// openTimeout bounds connecting to the host, the start of its libvirt included.
	openTimeout = time.Minute
	// lookTimeout bounds the look at what an operation left behind that failed or was interrupted.
	lookTimeout = 20 * time.Second
)

// timeoutsAttribute is the attribute timeouts of a resource whose Create and Update take write at most by default.
func timeoutsAttribute(ctx context.Context, write time.Duration) schema.Attribute {
	form := func(operation string, limit time.Duration) string {
		return "How long " + operation + " may take, such as `90s` or `1h30m`. Default: `" + shortDuration(limit) + "`."
	}
	attribute := timeouts.Attributes(ctx, timeouts.Opts{
		Create: true, CreateDescription: form("creating", write),
		Update: true, UpdateDescription: form("updating", write),
		Delete: true, DeleteDescription: form("deleting", deleteTimeout),
	})
	if nested, ok := attribute.(schema.SingleNestedAttribute); ok {
		nested.MarkdownDescription = "How long operations may take. What was done when one runs out is kept, and the next apply goes on from there."
		return nested
	}
	return attribute
}

// shortDuration writes whole hours and minutes without what is zero.
func shortDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if len(text) > len(zero) && text[len(text)-len(zero):] == zero {
			text = text[:len(text)-2]
		}
	}
	return text
}

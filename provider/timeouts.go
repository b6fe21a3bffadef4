package provider

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
)

// Defaults of the attribute timeouts. Each limits one operation as a whole.
const (
	// A base may have to be downloaded and built.
	buildTimeout = time.Hour
	// A VM boots in less than a minute even under emulation; ten minutes leave room for a slow host.
	vmWriteTimeout = 10 * time.Minute
	deleteTimeout  = 10 * time.Minute
	readTimeout    = 2 * time.Minute
	// listTimeout limits reading all VMs of a pool, of which many may not answer.
	listTimeout = 10 * time.Minute
	// openTimeout limits connecting to the host, which includes the start of its libvirt.
	openTimeout = time.Minute
	// lookTimeout limits reading the state of an object after an operation failed or was interrupted.
	lookTimeout = 20 * time.Second
)

// timeoutsAttribute is the attribute timeouts of a resource; write is the default limit of Create and Update.
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
		nested.MarkdownDescription = "How long operations may take. When the time is up, the work done so far is " +
			"kept, and the next apply continues it."
		return nested
	}
	return attribute
}

// shortDuration formats whole hours and minutes without trailing zeros: "1h", not "1h0m0s".
func shortDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if len(text) > len(zero) && text[len(text)-len(zero):] == zero {
			text = text[:len(text)-2]
		}
	}
	return text
}

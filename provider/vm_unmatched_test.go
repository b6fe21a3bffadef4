package provider_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// A name in refresh.units under which the VM has no unit is a warning of the plan and of the apply,
// which names both. What a guest names and the configuration does not is none.
func TestANameInThePolicyWithoutAUnitIsTold(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	c := newClient(t, world)
	source := values{"name": "own", "archive": values{"path": own.path}}
	base := applied(t, c, "sharedos_base", c.none("sharedos_base"), source)
	web := values{
		"name": "web", "base": releaseOf(t, base), "memory": "512MiB", "disk": values{"size": "4GiB"},
		"refresh": values{"units": values{
			"ngnix.service": values{"policy": "report"}, "cron.service": values{"policy": "report"},
			"db.service": values{"paths": []any{"/etc/db/"}},
		}},
	}
	state := applied(t, c, "sharedos_vm", c.none("sharedos_vm"), web)
	guest(t, world, "web").Impact = &agentapi.Impact{Level: agentapi.Level_NONE,
		UnmatchedUnits: []string{"ngnix.service", "db.service", "evil.service"}}
	own.set("2")()
	web["base"] = releaseOf(t, applied(t, c, "sharedos_base", base, source))
	check := func(when string) {
		t.Helper()
		var found []*tfprotov6.Diagnostic
		for _, d := range c.told {
			if strings.Contains(d.Summary, "no unit of a name") {
				found = append(found, d)
			}
		}
		if len(found) != 1 || found[0].Severity != tfprotov6.DiagnosticSeverityWarning ||
			!strings.Contains(found[0].Summary, `VM "web"`) ||
			!strings.Contains(found[0].Detail, "db.service\nngnix.service\n") ||
			strings.Contains(found[0].Detail, "evil") ||
			strings.Contains(found[0].Detail, "cron") {
			t.Errorf("%s: %+v", when, found)
		}
	}
	planned, text := c.plan("sharedos_vm", state, valueOf(t, c.typeOf("sharedos_vm"), web))
	if text != "" {
		t.Fatal(text)
	}
	check("plan")
	if _, text := c.apply("sharedos_vm", planned); text != "" {
		t.Fatal(text)
	}
	check("apply")
}

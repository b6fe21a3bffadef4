package provider_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
)

// A base that VMs use cannot be replaced by one of another name. The error says how, and that works.
func TestABaseIsRenamedUnderItsVMsAsTheErrorSays(t *testing.T) {
	world := newWorld(t)
	vm := web("running = false\n  refresh = { strategy = \"next_boot\" }")
	renamed := strings.Replace(debian(patched), `"debian-13"`, `"other"`, 1)
	inOrder := strings.Replace(renamed, "debian =", "lifecycle { create_before_destroy = true }\n  debian =", 1)
	check(t, world,
		resource.TestStep{Config: debian(patched) + vm},
		resource.TestStep{Config: renamed + vm,
			ExpectError: says(`Unable to delete base "debian-13"`, "in use",
				"create_before_destroy = true", "next_boot")},
		resource.TestStep{Config: inOrder + vm,
			Check: resource.TestCheckResourceAttr("sharedos_base.debian", "name", "other")},
	)
}

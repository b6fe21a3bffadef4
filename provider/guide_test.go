package provider_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// The schema that documentation is generated from has no actions and lists, as Terraform before
// 1.14 prints it. So a guide describes them, and names all that there is.
func TestTheGuideNamesAllActionsAndLists(t *testing.T) {
	c := newClient(t, newWorld(t))
	schemas, err := c.server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	must(t, err)
	guide, err := os.ReadFile(filepath.Join("..", "templates", "guides", "finding-and-acting.md"))
	must(t, err)
	_, acting, _ := strings.Cut(string(guide), "\n## Acting\n")
	_, lists, _ := strings.Cut(string(guide), "\n### Lists\n")
	if len(schemas.ActionSchemas) == 0 || len(schemas.ListResourceSchemas) == 0 {
		t.Fatal("there are no actions or lists")
	}
	for name, schema := range schemas.ActionSchemas {
		_, section, found := strings.Cut(acting, "\n### "+name+"\n")
		if !found {
			t.Errorf("the guide has no action %s", name)
		}
		section, _, _ = strings.Cut(section, "\n#")
		for _, attribute := range schema.Schema.Block.Attributes {
			if !strings.Contains(section, "`"+attribute.Name+"`") {
				t.Errorf("the guide does not name %s of the action %s", attribute.Name, name)
			}
			if !strings.HasSuffix(attribute.Description, ".") {
				t.Errorf("%s of the action %s is described as %q: a sentence is wanted", attribute.Name,
					name, attribute.Description)
			}
		}
	}
	lists, _, _ = strings.Cut(lists, "\n## ")
	for name, schema := range schemas.ListResourceSchemas {
		if !strings.Contains(lists, "`"+name+"`") {
			t.Errorf("the guide has no list %s", name)
		}
		for _, attribute := range schema.Block.Attributes {
			if !strings.Contains(lists, "- `"+attribute.Name+"`: ") {
				t.Errorf("the guide does not name %s of the list %s", attribute.Name, name)
			}
		}
	}
}

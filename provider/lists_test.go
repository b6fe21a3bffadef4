package provider_test

import (
	"slices"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// listing is one result of a list resource.
type listing struct {
	name     string
	identity map[string]any
	resource map[string]any
	told     []*tfprotov6.Diagnostic
}

// lists reads a list resource, as "terraform query" does.
func (c *client) lists(name string, whole bool, limit int64, config values) []listing {
	c.t.Helper()
	server, ok := c.server.(tfprotov6.ListResourceServer)
	if !ok {
		c.t.Fatal("the server has no list resources")
	}
	schemas, err := c.server.GetProviderSchema(c.t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	must(c.t, err)
	identities, err := c.server.GetResourceIdentitySchemas(c.t.Context(),
		&tfprotov6.GetResourceIdentitySchemasRequest{})
	must(c.t, err)
	schema := schemas.ListResourceSchemas[name]
	given := c.dynamic(schema.ValueType(), c.object(schema, config))
	valid, err := server.ValidateListResourceConfig(c.t.Context(),
		&tfprotov6.ValidateListResourceConfigRequest{TypeName: name, Config: given})
	must(c.t, err)
	if len(valid.Diagnostics) > 0 {
		return []listing{{told: valid.Diagnostics}}
	}
	stream, err := server.ListResource(c.t.Context(),
		&tfprotov6.ListResourceRequest{TypeName: name, Config: given, IncludeResource: whole, Limit: limit})
	must(c.t, err)
	var all []listing
	for result := range stream.Results {
		one := listing{name: result.DisplayName, told: result.Diagnostics}
		if result.Identity != nil {
			identity, err := result.Identity.IdentityData.Unmarshal(identities.IdentitySchemas[name].ValueType())
			must(c.t, err)
			one.identity = goValue(c.t, identity).(map[string]any)
		}
		if result.Resource != nil {
			resource, err := result.Resource.Unmarshal(c.typeOf(name))
			must(c.t, err)
			one.resource, _ = goValue(c.t, resource).(map[string]any)
		}
		all = append(all, one)
	}
	return all
}

// imports imports by an identity, reads, and returns the state and the identity.
func (c *client) imports(name string, identity map[string]any) (map[string]any, map[string]any, string) {
	c.t.Helper()
	identities, err := c.server.GetResourceIdentitySchemas(c.t.Context(),
		&tfprotov6.GetResourceIdentitySchemasRequest{})
	must(c.t, err)
	of := identities.IdentitySchemas[name].ValueType()
	given := &tfprotov6.ResourceIdentityData{IdentityData: c.dynamic(of, valueOf(c.t, of, values(identity)))}
	imported, err := c.server.ImportResourceState(c.t.Context(),
		&tfprotov6.ImportResourceStateRequest{TypeName: name, Identity: given})
	must(c.t, err)
	if text := errorsIn(imported.Diagnostics); text != "" {
		return nil, nil, text
	}
	one := imported.ImportedResources[0]
	read, err := c.server.ReadResource(c.t.Context(), &tfprotov6.ReadResourceRequest{
		TypeName: name, CurrentState: one.State, Private: one.Private, CurrentIdentity: one.Identity,
	})
	must(c.t, err)
	if text := errorsIn(read.Diagnostics); text != "" {
		return nil, nil, text
	}
	state, err := read.NewState.Unmarshal(c.typeOf(name))
	must(c.t, err)
	now, err := read.NewIdentity.IdentityData.Unmarshal(of)
	must(c.t, err)
	return goValue(c.t, state).(map[string]any), goValue(c.t, now).(map[string]any), ""
}

// What a list finds can be imported, and is then what the list said.
func TestWhatThereIsIsListedAndImported(t *testing.T) {
	c := fleet(t)
	for _, test := range []struct {
		name   string
		config values
		want   []string
		leaf   string
	}{
		{"sharedos_base", values{}, []string{"own"}, "release"},
		{"sharedos_component", values{}, []string{"tool"}, "release"},
		{"sharedos_vm", values{}, []string{"app", "off", "web"}, "base"},
		{"sharedos_vm", values{"component": "tool"}, []string{"app"}, "components"},
		{"sharedos_vm", values{"silent": true}, nil, ""},
	} {
		var names []string
		for _, one := range c.lists(test.name, true, 0, test.config) {
			names = append(names, one.name)
			if len(one.told) > 0 || one.resource[test.leaf] == nil {
				t.Errorf("%s %s is listed as %v, %v", test.name, one.name, one.resource, one.told)
			}
			state, identity, refused := c.imports(test.name, one.identity)
			if refused != "" {
				t.Errorf("%s %s: %s", test.name, one.name, refused)
				continue
			}
			for attribute, value := range one.identity {
				if identity[attribute] != value {
					t.Errorf("%s %s is imported as %v, want %v", test.name, one.name, identity, one.identity)
				}
			}
			if state["name"] != one.name || state["name"] != one.resource["name"] {
				t.Errorf("%s %s is imported as %v and listed as %v", test.name, one.name, state, one.resource)
			}
		}
		if !slices.Equal(names, test.want) {
			t.Errorf("%s %v lists %v, want %v", test.name, test.config, names, test.want)
		}
	}
	limited := c.lists("sharedos_vm", false, 2, values{})
	if len(limited) != 2 || limited[0].name != "app" || limited[0].resource != nil ||
		limited[0].identity["uuid"] == nil {
		t.Errorf("a list of two identities is %+v", limited)
	}
	c.world.Domains.Damage("app")
	all := c.lists("sharedos_vm", true, 0, values{})
	if len(all) != 3 || len(all[0].told) != 1 || all[0].told[0].Severity != tfprotov6.DiagnosticSeverityWarning ||
		all[1].name != "off" || all[2].name != "web" {
		t.Errorf("with a VM that cannot be read: %+v", all)
	}
}

func TestAnEmptyHostHasNothingToImport(t *testing.T) {
	c := newClient(t, newWorld(t))
	for _, name := range []string{"sharedos_base", "sharedos_component", "sharedos_vm"} {
		if all := c.lists(name, true, 0, values{}); len(all) != 0 {
			t.Errorf("%s: %+v", name, all)
		}
	}
	for name, identity := range map[string]map[string]any{
		"sharedos_vm": {"uuid": "6ba7b810-9dad-41d1-80b4-00c04fd430c8"},
	} {
		if _, _, refused := c.imports(name, identity); refused == "" {
			t.Errorf("%s %v was imported", name, identity)
		}
	}
	if all := c.lists("sharedos_vm", true, 0, values{"release": "newest"}); len(all) != 1 ||
		errorsIn(all[0].told) == "" {
		t.Errorf("a filter that is no release: %+v", all)
	}
}

// Each resource keeps its identity through its life, also one that a version without identities has made.
func TestAResourceHasAnIdentity(t *testing.T) {
	c := fleet(t)
	identities, err := c.server.GetResourceIdentitySchemas(t.Context(), &tfprotov6.GetResourceIdentitySchemasRequest{})
	must(t, err)
	of := identities.IdentitySchemas["sharedos_vm"].ValueType()
	listed := c.lists("sharedos_vm", true, 1, values{})[0]
	id := listed.identity["uuid"].(string)
	state, err := c.stateOf("sharedos_vm", "app")
	must(t, err)
	resp, err := c.server.ReadResource(t.Context(),
		&tfprotov6.ReadResourceRequest{TypeName: "sharedos_vm", CurrentState: state})
	must(t, err)
	if text := errorsIn(resp.Diagnostics); text != "" {
		t.Fatal(text)
	}
	identity, err := resp.NewIdentity.IdentityData.Unmarshal(of)
	must(t, err)
	if want := valueOf(t, of, values{"uuid": id}); !identity.Equal(want) {
		t.Errorf("the identity is %s, want %s", identity, want)
	}
}

// stateOf imports an object by its name and reads it.
func (c *client) stateOf(name, id string) (*tfprotov6.DynamicValue, error) {
	c.t.Helper()
	imported, err := c.server.ImportResourceState(c.t.Context(),
		&tfprotov6.ImportResourceStateRequest{TypeName: name, ID: id})
	if err != nil {
		return nil, err
	}
	one := imported.ImportedResources[0]
	read, err := c.server.ReadResource(c.t.Context(),
		&tfprotov6.ReadResourceRequest{TypeName: name, CurrentState: one.State, Private: one.Private})
	if err != nil {
		return nil, err
	}
	return read.NewState, nil
}

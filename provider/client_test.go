package provider_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// client speaks to a provider as Terraform does. A new one stands for a new process of the provider.
type client struct {
	t      *testing.T
	world  *providertest.World
	server tfprotov6.ProviderServer
	// idle and closes are those of the provider.
	idle   func() bool
	closes func() error
	schema map[string]*tfprotov6.Schema
	// told are the diagnostics that the last plan or apply printed.
	told []*tfprotov6.Diagnostic
}

func newClient(t *testing.T, world *providertest.World) *client {
	t.Helper()
	sharedos := provider.New("test", world.Open)
	c := &client{t: t, world: world, server: provider.NewServer(sharedos), idle: sharedos.Idle, closes: sharedos.Close}
	schemas, err := c.server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	must(t, err)
	c.schema = schemas.ResourceSchemas
	config := c.dynamic(schemas.Provider.ValueType(), c.object(schemas.Provider, nil))
	configured, err := c.server.ConfigureProvider(t.Context(), &tfprotov6.ConfigureProviderRequest{Config: config})
	must(t, err)
	if text := errorsIn(configured.Diagnostics); text != "" {
		t.Fatal(text)
	}
	return c
}

// errorsIn returns the errors of diagnostics as one text.
func errorsIn(diags []*tfprotov6.Diagnostic) string {
	var texts []string
	for _, d := range diags {
		if d.Severity == tfprotov6.DiagnosticSeverityError {
			texts = append(texts, d.Summary+": "+d.Detail)
		}
	}
	return strings.Join(texts, "\n")
}

// values are attributes by their names: Go values that stand for values of Terraform. Missing ones are null.
type values map[string]any

// object makes a value of a schema's type.
func (c *client) object(schema *tfprotov6.Schema, set values) tftypes.Value {
	c.t.Helper()
	return valueOf(c.t, schema.ValueType(), set)
}

// unknown stands for a value that is not known yet.
type unknown struct{}

// valueOf converts a Go value.
func valueOf(t *testing.T, of tftypes.Type, from any) tftypes.Value {
	t.Helper()
	switch set := from.(type) {
	case nil:
		if _, ok := of.(tftypes.Object); !ok {
			return tftypes.NewValue(of, nil)
		}
	case unknown:
		return tftypes.NewValue(of, tftypes.UnknownValue)
	case tftypes.Value:
		return set
	case values:
		if object, ok := of.(tftypes.Object); ok {
			made := map[string]tftypes.Value{}
			for name, attribute := range object.AttributeTypes {
				if value, ok := set[name]; ok {
					made[name] = valueOf(t, attribute, value)
				} else {
					made[name] = tftypes.NewValue(attribute, nil)
				}
			}
			for name := range set {
				if _, ok := object.AttributeTypes[name]; !ok {
					t.Fatalf("there is no attribute %q", name)
				}
			}
			return tftypes.NewValue(of, made)
		}
		made := map[string]tftypes.Value{}
		for name, value := range set {
			made[name] = valueOf(t, of.(tftypes.Map).ElementType, value)
		}
		return tftypes.NewValue(of, made)
	case []any:
		var elements []tftypes.Value
		var element tftypes.Type
		switch collection := of.(type) {
		case tftypes.List:
			element = collection.ElementType
		case tftypes.Set:
			element = collection.ElementType
		}
		for _, value := range set {
			elements = append(elements, valueOf(t, element, value))
		}
		return tftypes.NewValue(of, elements)
	}
	if _, ok := of.(tftypes.Object); ok && from == nil {
		if from == nil {
			return valueOf(t, of, values{})
		}
	}
	return tftypes.NewValue(of, from)
}

func (c *client) dynamic(of tftypes.Type, value tftypes.Value) *tfprotov6.DynamicValue {
	c.t.Helper()
	dynamic, err := tfprotov6.NewDynamicValue(of, value)
	must(c.t, err)
	return &dynamic
}

// instance is a resource in state.
type instance struct {
	value   tftypes.Value
	private []byte
}

// changePlan is a planned change of a resource.
type changePlan struct {
	prior, config, after tftypes.Value
	private              []byte
}

func (c *client) typeOf(name string) tftypes.Type { return c.schema[name].ValueType() }

func (c *client) none(name string) instance {
	return instance{value: tftypes.NewValue(c.typeOf(name), nil)}
}

func (c *client) read(name string, state instance) (instance, string) {
	c.t.Helper()
	of := c.typeOf(name)
	resp, err := c.server.ReadResource(c.t.Context(),
		&tfprotov6.ReadResourceRequest{TypeName: name,
			CurrentState: c.dynamic(of, state.value), Private: state.private})
	must(c.t, err)
	if text := errorsIn(resp.Diagnostics); text != "" {
		return state, text
	}
	now, err := resp.NewState.Unmarshal(of)
	must(c.t, err)
	return instance{now, resp.Private}, ""
}

// plan plans a change to a configuration.
func (c *client) plan(name string, state instance, config tftypes.Value) (changePlan, string) {
	c.t.Helper()
	of := c.typeOf(name)
	resp, err := c.server.PlanResourceChange(c.t.Context(), &tfprotov6.PlanResourceChangeRequest{
		TypeName: name, PriorState: c.dynamic(of, state.value), PriorPrivate: state.private,
		Config: c.dynamic(of, config), ProposedNewState: c.dynamic(of, c.proposed(name, state.value, config)),
	})
	must(c.t, err)
	c.told = resp.Diagnostics
	if text := errorsIn(resp.Diagnostics); text != "" {
		return changePlan{}, text
	}
	after, err := resp.PlannedState.Unmarshal(of)
	must(c.t, err)
	return changePlan{state.value, config, after, resp.PlannedPrivate}, ""
}

// proposed is what Terraform proposes: the configuration, with the values in state for what only the provider sets.
func (c *client) proposed(name string, prior, config tftypes.Value) tftypes.Value {
	c.t.Helper()
	if prior.IsNull() {
		return config
	}
	var before, set map[string]tftypes.Value
	must(c.t, prior.As(&before))
	must(c.t, config.As(&set))
	set = maps.Clone(set)
	for _, attribute := range c.schema[name].Block.Attributes {
		if attribute.Computed && set[attribute.Name].IsNull() {
			set[attribute.Name] = before[attribute.Name]
		}
	}
	return tftypes.NewValue(c.typeOf(name), set)
}

// apply applies a plan. An error leaves what the provider says is there now.
func (c *client) apply(name string, p changePlan) (instance, string) {
	c.t.Helper()
	of := c.typeOf(name)
	resp, err := c.server.ApplyResourceChange(c.t.Context(), &tfprotov6.ApplyResourceChangeRequest{
		TypeName: name, PriorState: c.dynamic(of, p.prior), PlannedState: c.dynamic(of, p.after),
		Config: c.dynamic(of, p.config), PlannedPrivate: p.private,
	})
	must(c.t, err)
	c.told = resp.Diagnostics
	now, err := resp.NewState.Unmarshal(of)
	must(c.t, err)
	return instance{now, resp.Private}, errorsIn(resp.Diagnostics)
}

// inconsistent lists where a value is not what was planned, by the rule of Terraform (AssertObjectCompatible in its
// package objchange): what was known must be the same, and what was unknown can be anything.
func inconsistent(at string, planned, actual tftypes.Value) []string {
	switch {
	case !planned.IsKnown():
		return nil
	case !actual.IsKnown():
		return []string{at + " was known and is unknown"}
	case planned.IsNull() || actual.IsNull():
		if planned.IsNull() != actual.IsNull() {
			return []string{fmt.Sprintf("%s was %s and is %s", at, planned, actual)}
		}
		return nil
	}
	var found []string
	switch planned.Type().(type) {
	case tftypes.Object, tftypes.Map:
		var before, now map[string]tftypes.Value
		if planned.As(&before) != nil || actual.As(&now) != nil {
			return []string{at + " has another type"}
		}
		for _, name := range slices.Sorted(maps.Keys(before)) {
			if value, ok := now[name]; ok {
				found = append(found, inconsistent(at+"."+name, before[name], value)...)
			} else {
				found = append(found, at+"."+name+" is gone")
			}
		}
		for name := range now {
			if _, ok := before[name]; !ok {
				found = append(found, at+"."+name+" is new")
			}
		}
	case tftypes.List, tftypes.Set:
		var before, now []tftypes.Value
		if planned.As(&before) != nil || actual.As(&now) != nil || len(before) != len(now) {
			return []string{fmt.Sprintf("%s was %s and is %s", at, planned, actual)}
		}
		if _, ok := planned.Type().(tftypes.Set); ok && planned.IsFullyKnown() {
			if !planned.Equal(actual) {
				found = append(found, fmt.Sprintf("%s was %s and is %s", at, planned, actual))
			}
			return found
		}
		for i := range before {
			found = append(found, inconsistent(fmt.Sprintf("%s[%d]", at, i), before[i], now[i])...)
		}
	default:
		if !planned.Equal(actual) {
			found = append(found, fmt.Sprintf("%s was %s and is %s", at, planned, actual))
		}
	}
	return found
}

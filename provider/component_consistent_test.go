package provider_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// componentChanges are changes of the attributes of a component besides its source. That of base is made by the test.
var componentChanges = map[string]values{
	"source":         {},
	"base":           {},
	"retain":         {"retain": 1},
	"shared_secrets": {"shared_secrets": []any{"/etc/secret"}},
	"limits":         {"limits": values{"entries": 100000}},
	"timeouts":       {"timeouts": values{"update": "2h"}},
}

// stage is a world with a base that has two releases, and a component that may be on the first of them.
type stage struct {
	t     *testing.T
	world *providertest.World
	c     *client
	// releases of the base, oldest first.
	releases []string
	tool     parts
	// config is the configuration of the component on the first release, and state is the component.
	config values
	state  instance
}

func newStage(t *testing.T, kind string, new bool) *stage {
	t.Helper()
	s := &stage{t: t, world: newWorld(t), tool: newParts(t)}
	own := newImage(t)
	s.c = newClient(t, s.world)
	source := values{"name": "own", "archive": values{"path": own.path}}
	base := applied(t, s.c, "sharedos_base", s.c.none("sharedos_base"), source)
	s.config = values{"name": "tool", "base": releaseOf(t, base), "archive": values{"path": s.tool.path}}
	if kind == "debian" {
		s.config = values{"name": "tool", "base": releaseOf(t, base),
			"debian": values{"packages": []any{"nginx-light"}}}
	}
	s.state = s.c.none("sharedos_component")
	if !new {
		s.state = applied(t, s.c, "sharedos_component", s.state, s.config)
	}
	own.set("2")()
	s.releases = []string{releaseOf(t, base), releaseOf(t, applied(t, s.c, "sharedos_base", base, source))}
	return s
}

// set gives the source its n-th content.
func (s *stage) set(n int) {
	s.tool.set(fmt.Sprint(n))()
	s.world.SetDebianArchive(fmt.Sprint(n))
}

func (s *stage) typeOf() tftypes.Type { return s.c.typeOf("sharedos_component") }

// Whatever happens between plan and apply of a component ends in an error of this provider, or as planned.
func TestAnApplyOfAComponentDoesWhatThePlanSaid(t *testing.T) {
	happenings := map[string]func(s *stage){
		"nothing":                  func(*stage) {},
		"the source changes":       func(s *stage) { s.set(3) },
		"the source is as before":  func(s *stage) { s.set(1) },
		"the source is gone":       func(s *stage) { must(s.t, os.Remove(s.tool.path)) },
		"the cache is gone":        func(s *stage) { must(s.t, s.world.ForgetCache()) },
		"the host does not answer": func(s *stage) { s.world.SetFailure(store.ErrUnreachable) },
		"the component is gone":    func(s *stage) { _ = s.world.DropComponent(s.t.Context(), "tool") },
		"component and base are gone": func(s *stage) {
			_, _ = s.world.DropComponent(s.t.Context(), "tool"), s.world.DropBase(s.t.Context(), "own")
		},
		"another release is published": func(s *stage) {
			elsewhere := newParts(s.t)
			elsewhere.set("9")()
			applied(s.t, newClient(s.t, s.world), "sharedos_component", s.state,
				values{"name": "tool", "base": s.releases[1], "archive": values{"path": elsewhere.path}})
		},
	}
	for _, kind := range []string{"archive", "debian"} {
		for change, config := range componentChanges {
			for happening, happen := range happenings {
				for _, new := range []bool{true, false} {
					moves := change == "source" || change == "base"
					if !moves && (kind != "archive" || happening != "nothing" && happening != "the source changes") ||
						new && change != "source" {
						continue
					}
					// Nothing in a new component's own data says that it was planned before.
					known := !new || happening != "the source changes" && happening != "the source is as before" &&
						happening != "another release is published"
					twice(t, fmt.Sprintf("%s/%s/new %v/%s", kind, change, new, happening), known,
						func(t *testing.T, again bool) {
							s := newStage(t, kind, new)
							after := merged(s.config, config)
							if change == "base" {
								after["base"] = s.releases[1]
							} else {
								s.set(2)
							}
							if kind == "debian" && change == "source" && !new {
								after["debian"] = values{"packages": []any{"nginx-light"},
									"triggers": values{"month": "2"}}
							}
							_, text := consistent(t, s.world, "sharedos_component", s.state,
								valueOf(t, s.typeOf(), after),
								func() { happen(s) }, again)
							if happening == "nothing" && text != "" {
								t.Error(text)
							}
						})
				}
			}
		}
	}
}

// While the base is unknown, nothing is said about the release. What was known before stays as it is.
func TestAComponentOfAnUnknownBaseIsUnknown(t *testing.T) {
	for _, new := range []bool{true, false} {
		for name, config := range componentChanges {
			t.Run(fmt.Sprintf("%s/new %v", name, new), func(t *testing.T) {
				t.Parallel()
				s := newStage(t, "archive", new)
				before, text := newClient(t, s.world).plan("sharedos_component", s.state,
					valueOf(t, s.typeOf(), merged(s.config, config, values{"base": unknown{}})))
				if text != "" {
					t.Fatal(text)
				}
				var planned map[string]tftypes.Value
				must(t, before.after.As(&planned))
				for _, attribute := range []string{"release", "sequence", "previous", "layers", "bytes", "base_name",
					"packages", "adds", "source_digest"} {
					if planned[attribute].IsKnown() {
						t.Errorf("%s is %s", attribute, planned[attribute])
					}
				}
				applying := newClient(t, s.world)
				after, text := applying.plan("sharedos_component", s.state,
					valueOf(t, s.typeOf(), merged(s.config, config, values{"base": s.releases[1]})))
				if text != "" {
					t.Fatal(text)
				}
				if bad := inconsistent("sharedos_component", before.after, after.after); len(bad) > 0 {
					t.Errorf("Provider produced inconsistent final plan:\n  %s", strings.Join(bad, "\n  "))
				}
				result, text := applying.apply("sharedos_component", after)
				if bad := inconsistent("sharedos_component", after.after, result.value); text != "" || len(bad) > 0 {
					t.Errorf("Provider produced inconsistent result after apply: %s\n  %s", text,
						strings.Join(bad, "\n  "))
				}
			})
		}
	}
}

// A plan whose source has changed since is refused with what to do.
func TestAPlanOfAComponentWhoseSourceChangedSinceIsRefused(t *testing.T) {
	for _, again := range []bool{true, false} {
		for _, kind := range []string{"archive", "debian"} {
			t.Run(fmt.Sprintf("%s, second planning %v", kind, again), func(t *testing.T) {
				t.Parallel()
				s := newStage(t, kind, false)
				s.set(2)
				if kind == "debian" {
					s.config["debian"] = values{"packages": []any{"nginx-light"}, "triggers": values{"month": "2"}}
				}
				_, text := consistent(t, s.world, "sharedos_component", s.state, valueOf(t, s.typeOf(), s.config),
					func() { s.set(3) }, again)
				if !says(`component "tool"`, "this is not what the plan said", "Nothing was",
					"Plan again").MatchString(text) {
					t.Errorf("it says: %s", text)
				}
			})
		}
	}
}

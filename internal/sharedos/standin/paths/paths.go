// Package paths has the places of stand-ins in a tree, and of stacks in an offer. Host and guest both use them.
package paths

import "github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"

// Agent is where a running guest has the agent (mounts.AgentBinary).
const Agent = "/run/sharedos/bin/agent"

// AgentUnit is the unit of the agent (boot.AgentUnit).
const AgentUnit = "sharedos-agent.service"

// Paths of stand-ins, relative to the root as those of a tree are.
const (
	// OnDemand is the directory of everything but commands and D-Bus files.
	OnDemand = "usr/lib/sharedos/on-demand"
	// Units is a directory of unit files in the form of systemd.unit(5). The generator copies it.
	Units = OnDemand + "/units"
	// Components has an empty file for each component that the stack has stand-ins of. Its name is the component's.
	Components = OnDemand + "/components"
	// Generator and Command are links to the agent. Command is there unless the base has such a path.
	Generator = "usr/lib/systemd/system-generators/sharedos-on-demand"
	Command   = "usr/sbin/sharedos"
)

// Verbs are the first arguments that stand-ins call the agent with. The name of the component follows. Linux gives an
// interpreter what follows it on the first line of a script as one argument: "call NAME" (execve(2)).
const (
	// UseVerb attaches the component and returns when it is attached.
	UseVerb = "use"
	// CallVerb attaches the component and executes the path again. The path and the arguments of the call follow.
	CallVerb = "call"
)

// The directories of an offer.
const (
	// OfferStacks has a signed stack manifest for each stack, named by the 64 hexadecimal digits of the stack's id.
	OfferStacks = "stacks"
	// OfferContents has the contents lists of these stacks, named by the 64 hexadecimal digits of their digests.
	OfferContents = "contents"
)

// OfferStack is the path of a signed stack manifest in an offer.
func OfferStack(id tree.Digest) string { return OfferStacks + "/" + id.Hex() }

// OfferList is the path of a contents list in an offer.
func OfferList(digest tree.Digest) string { return OfferContents + "/" + digest.Hex() }

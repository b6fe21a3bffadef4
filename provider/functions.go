package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/function"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var _ provider.ProviderWithFunctions = (*Provider)(nil)

// Functions implements provider.ProviderWithFunctions. Terraform calls functions before the
// provider is configured, so they know only their arguments.
func (p *Provider) Functions(context.Context) []func() function.Function {
	var all []func() function.Function
	for _, one := range functions {
		all = append(all, func() function.Function { return one })
	}
	return all
}

// calculation is a function of the provider.
type calculation struct {
	name       string
	definition function.Definition
	run        func(ctx context.Context, arguments function.ArgumentsData) (any, *function.FuncError)
}

var _ function.Function = calculation{}

// Metadata implements function.Function.
func (c calculation) Metadata(_ context.Context, _ function.MetadataRequest, resp *function.MetadataResponse) {
	resp.Name = c.name
}

// Definition implements function.Function.
func (c calculation) Definition(_ context.Context, _ function.DefinitionRequest, resp *function.DefinitionResponse) {
	resp.Definition = c.definition
}

// Run implements function.Function.
func (c calculation) Run(ctx context.Context, req function.RunRequest, resp *function.RunResponse) {
	result, err := c.run(ctx, req.Arguments)
	if err == nil {
		err = resp.Result.Set(ctx, result)
	}
	resp.Error = err
}

// refuseArgument says what is wrong with an argument, counted from 0.
func refuseArgument(at int64, err error) *function.FuncError {
	return function.NewArgumentFuncError(at, sentence(err))
}

var functions = []calculation{
	{
		name: "parse_size",
		definition: function.Definition{
			Summary: "Bytes of a size",
			MarkdownDescription: "Returns the bytes of a size such as `512MiB`, as `memory` and `disk.size` of a VM have it: a whole " +
				"number with one of the units B, KiB, MiB, GiB and TiB.",
			Parameters: []function.Parameter{function.StringParameter{Name: "size", MarkdownDescription: "The size."}},
			Return:     function.Int64Return{},
		},
		run: func(ctx context.Context, arguments function.ArgumentsData) (any, *function.FuncError) {
			var text string
			if err := arguments.Get(ctx, &text); err != nil {
				return nil, err
			}
			bytes, err := parseSize(text)
			if err != nil {
				return nil, refuseArgument(0, err)
			}
			return bytes, nil
		},
	},
	{
		name: "format_size",
		definition: function.Definition{
			Summary: "A size of so many bytes",
			MarkdownDescription: "Returns bytes as a size, in the largest unit in which they are a whole number: 536870912 is `512MiB`. " +
				"`parse_size` returns the same number of bytes for it.",
			Parameters: []function.Parameter{function.Int64Parameter{Name: "bytes",
				MarkdownDescription: "Bytes, not negative."}},
			Return: function.StringReturn{},
		},
		run: func(ctx context.Context, arguments function.ArgumentsData) (any, *function.FuncError) {
			var bytes int64
			if err := arguments.Get(ctx, &bytes); err != nil {
				return nil, err
			}
			if bytes < 0 {
				return nil, refuseArgument(0, fmt.Errorf("%d is negative, and a size is not", bytes))
			}
			return formatSize(bytes), nil
		},
	},
	{
		name: "mac_address",
		definition: function.Definition{
			Summary: "A stable MAC address from two names",
			MarkdownDescription: "Returns a MAC address that follows from two names alone, for `mac` of an interface: the same names always " +
				"give the same address. With the UUID of a VM and the name of an interface, it is the address that " +
				"the interface has without `mac`. With the name of the VM instead of its UUID, the address outlives " +
				"the VM, so that a DHCP server can have a reservation for it.",
			Parameters: []function.Parameter{
				function.StringParameter{Name: "vm", MarkdownDescription: "Name or UUID of the VM. Not empty."},
				function.StringParameter{Name: "interface", MarkdownDescription: "Name of the interface. Not empty."},
			},
			Return: function.StringReturn{},
		},
		run: func(ctx context.Context, arguments function.ArgumentsData) (any, *function.FuncError) {
			var names [2]string
			if err := arguments.Get(ctx, &names[0], &names[1]); err != nil {
				return nil, err
			}
			for i, name := range names {
				if name == "" {
					return nil, refuseArgument(int64(i),
						errors.New("it is empty, and an address follows from both names"))
				}
			}
			return hypervisor.MAC(names[0], names[1]), nil
		},
	},
	{
		name: "compare_releases",
		definition: function.Definition{
			Summary: "Whether a release is older or newer than another one",
			MarkdownDescription: "Returns `older`, `same` or `newer`: what the first release is, compared with the second one. An id does not " +
				"say which release is newer, so the history does. Two equal ids are `same` whatever the history has. It is an error if the " +
				"history lacks a release: it may be an old one that the pool no longer keeps, or one of another base.",
			Parameters: []function.Parameter{
				function.ListParameter{
					Name: "history", ElementType: types.StringType,
					MarkdownDescription: "Ids of releases, newest first, such as `data.sharedos_base.debian.history[*].release`.",
				},
				function.StringParameter{Name: "release", MarkdownDescription: "Id of a release."},
				function.StringParameter{Name: "other",
					MarkdownDescription: "Id of the release that it is compared with."},
			},
			Return: function.StringReturn{},
		},
		run: func(ctx context.Context, arguments function.ArgumentsData) (any, *function.FuncError) {
			var history []string
			var releases [2]string
			if err := arguments.Get(ctx, &history, &releases[0], &releases[1]); err != nil {
				return nil, err
			}
			return compareReleases(history, releases)
		},
	},
}

// compareReleases compares the first release with the second one by a history, newest first.
func compareReleases(history []string, releases [2]string) (string, *function.FuncError) {
	for i, id := range releases {
		if _, err := tree.ParseDigest(id); err != nil {
			shown, _ := plain.Value(id)
			return "", refuseArgument(int64(i+1),
				fmt.Errorf("%s is not the id of a release: it has the form sha256:<64 hex>", shown))
		}
	}
	if releases[0] == releases[1] {
		return "same", nil
	}
	var at [2]int
	for i, id := range releases {
		if at[i] = slices.Index(history, id); at[i] < 0 {
			return "", refuseArgument(int64(i+1),
				fmt.Errorf("release %s is not in the history: the pool may no longer keep it, or it is of "+
					"another base or component; to keep more releases, set retain", id))
		}
	}
	if at[0] < at[1] {
		return "newer", nil
	}
	return "older", nil
}

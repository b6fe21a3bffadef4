package compose

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// mergeSystem merges packages and accounts: what each component changed of the base's, taken together.
func (p Parts) mergeSystem(stack *release.StackManifest) error {
	versions := func(m *release.Manifest) map[string]string {
		all := make(map[string]string, len(m.Packages))
		for _, one := range m.Packages {
			all[one.Name] = one.Version
		}
		return all
	}
	packages, err := merge(p, "package", versions)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		stack.Packages = append(stack.Packages, release.Package{Name: name, Version: packages[name]})
	}
	users := func(m *release.Manifest) map[string]uint32 { return m.Users }
	if stack.Users, err = p.mergeAccounts("user", users); err != nil {
		return err
	}
	groups := func(m *release.Manifest) map[string]uint32 { return m.Groups }
	stack.Groups, err = p.mergeAccounts("group", groups)
	return err
}

// merge takes what each component changed of the base's values. A value that two of them changed differently is a
// conflict.
func merge[V comparable](p Parts, what string, of func(*release.Manifest) map[string]V) (map[string]V, error) {
	base := of(p.Base.Manifest)
	merged := maps.Clone(base)
	if merged == nil {
		merged = map[string]V{}
	}
	changedBy := map[string]int{}
	for i, component := range p.Components {
		own := of(component.Manifest)
		names := slices.AppendSeq(slices.Collect(maps.Keys(base)), maps.Keys(own))
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			was, had := base[name]
			is, has := own[name]
			if had == has && was == is {
				continue
			}
			if other, changed := changedBy[name]; changed {
				if now, there := merged[name]; there != has || now != is {
					return nil, &Conflict{
						What: what + " " + name, First: p.Components[other].Manifest.Name,
						Second:     component.Manifest.Name,
						FirstMakes: valueText(now, there), SecondMakes: valueText(is, has),
					}
				}
				continue
			}
			changedBy[name] = i
			if has {
				merged[name] = is
			} else {
				delete(merged, name)
			}
		}
	}
	return merged, nil
}

func valueText(value any, there bool) string {
	if !there {
		return "removed it"
	}
	return fmt.Sprint(value)
}

// mergeAccounts merges names with their numbers. Two components must not give one number to different names, nor a
// component that of an account of the base that it removed: files of the one would belong to the other, in VMs that run
// the base without the component, too.
func (p Parts) mergeAccounts(what string, of func(*release.Manifest) map[string]uint32) (map[string]uint32, error) {
	merged, err := merge(p, what, of)
	if err != nil {
		return nil, err
	}
	base := of(p.Base.Manifest)
	type owner struct{ component, name string }
	owners := map[uint32]owner{}
	for _, component := range p.Components {
		own := of(component.Manifest)
		for _, name := range slices.Sorted(maps.Keys(own)) {
			number := own[name]
			if was, had := base[name]; had && was == number {
				continue
			}
			now := owner{component.Manifest.Name, name}
			if before := release.HolderOf(base, number, name); before != "" && own[before] != number {
				return nil, &Conflict{
					What: fmt.Sprintf("%s number %d", what, number), First: p.Base.Manifest.Name, Second: now.component,
					FirstMakes: before, SecondMakes: name,
				}
			}
			if other, taken := owners[number]; taken && other.component != now.component && other.name != name {
				return nil, &Conflict{
					What: fmt.Sprintf("%s number %d", what, number), First: other.component, Second: now.component,
					FirstMakes: other.name, SecondMakes: name,
				}
			}
			owners[number] = now
		}
	}
	return merged, nil
}

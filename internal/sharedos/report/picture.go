package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Limits of the picture. What is beyond them is in the tables.
const (
	maxColumns = 16
	maxRows    = 16
)

// picture shows VMs as columns that stand on the layers that they use. A layer is one bar, however
// many VMs stand on it.
type picture struct {
	Columns []column
	// Rows, top to bottom: the layers that most VMs stand on are at the bottom.
	Rows []row
	// VMsLeftOut and LayersLeftOut are how many VMs and layers that VMs use are not in it.
	VMsLeftOut, LayersLeftOut int
	// Grouped is true if a column is all VMs that use the same layers.
	Grouped bool
}

// column is a VM, or several that use the same layers.
type column struct {
	Label string
	// Class is how the worst of its VMs is: "bad", "waits", "off" or "good". Mark shows the same without colour.
	Class, Mark string

	vms  []int
	uses map[string]bool
}

// row is a layer.
type row struct {
	Label, Class string
	Bars         []bar
}

// bar is a run of columns that all use the layer, or none of which does.
type bar struct {
	Span int
	On   bool
}

// newPicture arranges VMs and layers so that a layer has as few bars as possible.
func newPicture(r *Report) picture {
	uses := make([]map[string]bool, len(r.VMs))
	place := map[string]int{}
	for i, vm := range r.VMs {
		place[vm.Name], uses[i] = i, map[string]bool{}
	}
	var used []Layer
	for _, layer := range r.Layers {
		for _, name := range layer.VMs {
			if at, ok := place[name]; ok {
				uses[at][layer.ID] = true
			}
		}
		if len(layer.VMs) > 0 {
			used = append(used, layer)
		}
	}
	// The foundation comes first: layers that many VMs use, and those that came first among equals.
	slices.SortStableFunc(used, func(a, b Layer) int { return cmp.Compare(len(b.VMs), len(a.VMs)) })
	var p picture
	p.Grouped = len(r.VMs) > maxColumns
	p.Columns = columnsOf(r.VMs, uses, used, p.Grouped)
	if len(p.Columns) > maxColumns {
		slices.SortStableFunc(p.Columns, func(a, b column) int { return cmp.Compare(len(b.vms), len(a.vms)) })
		for _, one := range p.Columns[maxColumns:] {
			p.VMsLeftOut += len(one.vms)
		}
		p.Columns = p.Columns[:maxColumns]
	}
	asNeighbours(p.Columns, used)
	for _, layer := range used {
		line := row{Label: layerLabel(layer), Class: cmp.Or(layer.Of.Kind, "unknown") + "-" + layer.Kind}
		for _, one := range p.Columns {
			on := one.uses[layer.ID]
			if last := len(line.Bars) - 1; last >= 0 && line.Bars[last].On == on {
				line.Bars[last].Span++
			} else {
				line.Bars = append(line.Bars, bar{1, on})
			}
		}
		shown := slices.ContainsFunc(line.Bars, func(b bar) bool { return b.On })
		if !shown || len(p.Rows) == maxRows {
			p.LayersLeftOut++
			continue
		}
		p.Rows = append(p.Rows, line)
	}
	slices.Reverse(p.Rows)
	return p
}

// columnsOf makes a column of each VM, or of all VMs that use the same layers.
func columnsOf(vms []VM, uses []map[string]bool, used []Layer, grouped bool) []column {
	var columns []column
	byKey := map[string]int{}
	for i, vm := range vms {
		var key strings.Builder
		for _, layer := range used {
			if uses[i][layer.ID] {
				key.WriteString(layer.ID + " ")
			}
		}
		at, known := byKey[key.String()]
		if !known || !grouped {
			at = len(columns)
			columns = append(columns, column{Label: vm.Name, uses: uses[i]})
			byKey[key.String()] = at
		}
		columns[at].vms = append(columns[at].vms, i)
	}
	for i := range columns {
		one := &columns[i]
		if len(one.vms) > 1 {
			one.Label = fmt.Sprintf("%d VMs", len(one.vms))
		}
		worst := slices.MaxFunc(one.vms, func(a, b int) int { return cmp.Compare(severity(vms[a]), severity(vms[b])) })
		one.Class, one.Mark = condition(vms[worst])
	}
	return columns
}

// asNeighbours sorts columns so that those that share layers are neighbours.
func asNeighbours(columns []column, used []Layer) {
	slices.SortStableFunc(columns, func(a, b column) int {
		for _, layer := range used {
			if a.uses[layer.ID] != b.uses[layer.ID] {
				if a.uses[layer.ID] {
					return -1
				}
				return 1
			}
		}
		return 0
	})
}

// severity orders VMs by how much they need a person.
func severity(vm VM) int {
	switch {
	case vm.State == "crashed" || vm.State == "paused" || vm.Agent == Silent ||
		len(vm.Faults) > 0 || vm.LastRefresh.failed():
		return 3
	case len(vm.Waits) > 0 || len(vm.Held) > 0:
		return 2
	case vm.Agent == NotAsked:
		return 1
	default:
		return 0
	}
}

// condition returns the class of a VM and its mark.
func condition(vm VM) (class, mark string) {
	switch severity(vm) {
	case 3:
		return "bad", "!"
	case 2:
		return "waits", "…"
	case 1:
		return "off", "○"
	default:
		return "good", "●"
	}
}

func (r *Refresh) failed() bool {
	return r != nil && (r.Result == "rolled back" || r.Result == "refused")
}

func layerLabel(layer Layer) string {
	name := layer.Of.Text()
	switch {
	case layer.Of.Kind == "":
		name = "layer " + Short(layer.ID)
	case layer.Of.Kind != "base" && layer.Of.Kind != "component":
		name = kindName(layer.Of.Kind) + " of " + name
	case layer.Kind == "full":
		name += ", full"
	}
	return fmt.Sprintf("%s: %s, %s", name, size(layer.Bytes), count(len(layer.VMs), "VM"))
}

// kindName names what a layer of a kind of release is.
func kindName(kind string) string {
	switch kind {
	case "base", "component":
		return kind
	case "joining":
		return "joining layer"
	case "standin":
		return "stand-in"
	case "offer":
		return "offer"
	default:
		return "unknown"
	}
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// size writes bytes with a unit that fits, with one decimal below ten.
func size(bytes int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	value, unit := float64(bytes), 0
	for (value >= 1024 || value <= -1024) && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit > 0 && value < 10 && value > -10 {
		return fmt.Sprintf("%.1f %s", value, units[unit])
	}
	return fmt.Sprintf("%.0f %s", value, units[unit])
}

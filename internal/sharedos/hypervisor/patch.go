package hypervisor

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// Operations of a Patch, as in RFC 5261.
const (
	PatchAdd     = "add"
	PatchReplace = "replace"
	PatchRemove  = "remove"
)

// PatchOps are the operations of a Patch.
var PatchOps = []string{PatchAdd, PatchReplace, PatchRemove}

// Patch is a change of the definition that this package writes. It may change what no other
// attribute of a VM is about, and nothing else.
type Patch struct {
	// Op is one of PatchOps.
	Op string
	// Path names one element, such as /domain/devices/memballoon or /domain/devices/interface[2],
	// or an attribute of one, such as /domain/cpu/@check. A step is a name, with [n] or
	// [@attribute='value'] after it if there are several.
	Path string
	// XML is what is added as the last children of the element, or what it is replaced by. For an
	// attribute it is its value.
	XML string `json:",omitempty"`
}

// Limits of patches.
const (
	maxPatch      = 64 << 10
	maxPatchDepth = 64
)

// qemuSpace is the namespace of libvirt's elements for QEMU alone. A patch may use its prefix without declaring it.
const qemuSpace = "http://libvirt.org/schemas/domain/qemu/1.0"

// ownElements are the elements that a VM stands on. No patch changes them or what is in them.
var ownElements = []string{
	"/domain/name", "/domain/uuid", "/domain/title", "/domain/description", "/domain/metadata",
	"/domain/os", "/domain/sysinfo",
	"/domain/on_poweroff", "/domain/on_reboot", "/domain/on_crash", "/domain/memoryBacking/source",
	"/domain/memoryBacking/access",
	"/domain/devices/disk", "/domain/devices/vsock", "/domain/devices/serial", "/domain/devices/console",
	"/domain/devices/watchdog",
}

// Patches can add to what is in extendedElements, and add more of them, and change nothing that is
// there. They can change what is in neededElements, and not remove or replace these as a whole.
var (
	extendedElements = []string{"/domain/devices/controller", "/domain/commandline"}
	neededElements   = []string{"/domain/devices", "/domain/features", "/domain/cpu",
		"/domain/devices/memballoon", "/domain/devices/rng"}
)

// Check returns why a patch cannot be applied to any definition.
func (p Patch) Check() error {
	if len(p.Path)+len(p.XML) > maxPatch {
		return fmt.Errorf("it has more than %d bytes", maxPatch)
	}
	at, err := parsePatchPath(p.Path)
	if err != nil {
		return err
	}
	switch p.Op {
	case PatchRemove:
		if p.XML != "" {
			return errors.New("something that is removed needs no XML")
		}
		return nil
	case PatchAdd, PatchReplace:
	default:
		return fmt.Errorf("%q is none of %s", p.Op, strings.Join(PatchOps, ", "))
	}
	if at.attribute != "" {
		return nil
	}
	nodes, err := parseNodes(p.XML)
	switch {
	case err != nil:
		return fmt.Errorf("its XML is not well-formed: %w", err)
	case len(nodes) == 0:
		return errors.New("its XML has no element")
	case p.Op == PatchReplace && len(nodes) != 1:
		return fmt.Errorf("an element is replaced by one element, and its XML has %d", len(nodes))
	}
	return nil
}

// node is an element. Comments and processing instructions of a definition mean nothing.
type node struct {
	name       xml.Name
	attributes []xml.Attr
	children   []*node
	text       string
}

// parseNodes reads a sequence of elements.
func parseNodes(text string) ([]*node, error) {
	root := &node{}
	open := []*node{root}
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		last := open[len(open)-1]
		switch token := token.(type) {
		case xml.StartElement:
			if len(open) > maxPatchDepth {
				return nil, fmt.Errorf("more than %d elements are in each other", maxPatchDepth)
			}
			one := &node{name: token.Name}
			if one.name.Space == "qemu" {
				one.name.Space = qemuSpace
			}
			for _, attribute := range token.Attr {
				if !declares(attribute) {
					one.attributes = append(one.attributes, attribute)
				}
			}
			last.children = append(last.children, one)
			open = append(open, one)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			last.text += string(token)
		case xml.Directive:
			return nil, errors.New("a document type is not allowed")
		}
	}
	if strings.TrimSpace(root.text) != "" {
		return nil, errors.New("there is text outside of an element")
	}
	return root.children, nil
}

// write writes the element. inside is the namespace around it.
func (n *node) write(to *strings.Builder, inside string) error {
	to.WriteString("<" + n.name.Local)
	if n.name.Space != inside {
		to.WriteString(` xmlns="`)
		if err := xml.EscapeText(to, []byte(n.name.Space)); err != nil {
			return err
		}
		to.WriteString(`"`)
	}
	for _, attribute := range n.attributes {
		if attribute.Name.Space != "" {
			return fmt.Errorf("the attribute %s has a namespace", attribute.Name.Local)
		}
		to.WriteString(" " + attribute.Name.Local + `="`)
		if err := xml.EscapeText(to, []byte(attribute.Value)); err != nil {
			return err
		}
		to.WriteString(`"`)
	}
	to.WriteString(">")
	if len(n.children) == 0 || strings.TrimSpace(n.text) != "" {
		if err := xml.EscapeText(to, []byte(n.text)); err != nil {
			return err
		}
	}
	for _, child := range n.children {
		if err := child.write(to, n.name.Space); err != nil {
			return err
		}
	}
	to.WriteString("</" + n.name.Local + ">")
	return nil
}

func (n *node) attribute(name string) int {
	return slices.IndexFunc(n.attributes, func(a xml.Attr) bool { return a.Name.Space == "" && a.Name.Local == name })
}

// patchPath is a Patch.Path.
type patchPath struct {
	steps     []patchStep
	attribute string
}

type patchStep struct {
	name string
	// index counts from 1; 0 is any. where are attributes with their values.
	index int
	where map[string]string
}

var (
	stepForm      = regexp.MustCompile(`^(?:qemu:)?([A-Za-z_][A-Za-z0-9_.-]*)((?:\[[^\]]*\])*)$`)
	predicateForm = regexp.MustCompile(`^\[(?:([1-9][0-9]{0,3})|@([A-Za-z_][A-Za-z0-9_.-]*)=(?:'([^']*)'|"([^"]*)"))\]`)
)

func parsePatchPath(text string) (patchPath, error) {
	wrong := func() (patchPath, error) {
		return patchPath{}, fmt.Errorf(
			"%q is not a path such as /domain/cpu/feature[@name='vmx'], /domain/devices/interface[2] or /domain/cpu/@check", text)
	}
	parts, ok := splitPath(text)
	if !ok {
		return wrong()
	}
	var at patchPath
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, "@"); ok && i == len(parts)-1 && i > 0 && stepForm.MatchString(name) &&
			!strings.Contains(name, "[") {
			at.attribute = name
			continue
		}
		form := stepForm.FindStringSubmatch(part)
		if form == nil {
			return wrong()
		}
		step := patchStep{name: form[1]}
		for rest := form[2]; rest != ""; {
			predicate := predicateForm.FindStringSubmatch(rest)
			switch {
			case predicate == nil:
				return wrong()
			case predicate[1] != "":
				index, err := strconv.Atoi(predicate[1])
				if err != nil {
					return wrong()
				}
				step.index = index
			default:
				if step.where == nil {
					step.where = map[string]string{}
				}
				step.where[predicate[2]] = predicate[3] + predicate[4]
			}
			rest = rest[len(predicate[0]):]
		}
		at.steps = append(at.steps, step)
	}
	if len(at.steps) == 0 || !reflect.DeepEqual(at.steps[0], patchStep{name: "domain"}) {
		return wrong()
	}
	return at, nil
}

// splitPath splits a path at its slashes, but for those in values.
func splitPath(text string) (parts []string, ok bool) {
	rest, ok := strings.CutPrefix(text, "/")
	if !ok {
		return nil, false
	}
	from, quote := 0, byte(0)
	for i := range len(rest) {
		switch c := rest[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '/':
			parts, from = append(parts, rest[from:i]), i+1
		}
	}
	return append(parts, rest[from:]), quote == 0
}

// plain is the path without what selects among several elements.
func (p patchPath) plain() string {
	var text strings.Builder
	for _, step := range p.steps {
		text.WriteString("/" + step.name)
	}
	return text.String()
}

// find returns the elements at the path, each with the one around it, which is nil for the root.
func (p patchPath) find(root *node) (found [][2]*node) {
	found = [][2]*node{{nil, root}}
	for i, step := range p.steps {
		candidates := found
		if i > 0 {
			candidates = nil
			for _, one := range found {
				for _, child := range one[1].children {
					candidates = append(candidates, [2]*node{one[1], child})
				}
			}
		}
		found = nil
		number := map[*node]int{}
		for _, one := range candidates {
			if one[1].name.Local != step.name || !one[1].has(step.where) {
				continue
			}
			if number[one[0]]++; step.index == 0 || number[one[0]] == step.index {
				found = append(found, one)
			}
		}
	}
	return found
}

func (n *node) has(where map[string]string) bool {
	for name, value := range where {
		if i := n.attribute(name); i < 0 || n.attributes[i].Value != value {
			return false
		}
	}
	return true
}

// apply changes a definition.
func (p Patch) apply(root *node) error {
	if err := p.Check(); err != nil {
		return err
	}
	at, err := parsePatchPath(p.Path)
	if err != nil {
		return err
	}
	plain := at.plain()
	for _, own := range ownElements {
		if plain == own || strings.HasPrefix(plain, own+"/") {
			return fmt.Errorf("%s is what the VM stands on, and no patch can change it", own)
		}
	}
	for _, own := range extendedElements {
		if p.Op != PatchAdd && (plain == own || strings.HasPrefix(plain, own+"/")) {
			return fmt.Errorf("the VM needs its %s, and a patch can only add to it", own)
		}
	}
	if p.Op != PatchAdd && at.attribute == "" && slices.Contains(neededElements, plain) {
		return fmt.Errorf("the VM needs its %s: change what is in it", plain)
	}
	found := at.find(root)
	if len(found) != 1 {
		return fmt.Errorf("its path matches %d elements of the definition and not one", len(found))
	}
	around, target := found[0][0], found[0][1]
	if at.attribute != "" {
		return p.applyToAttribute(target, at.attribute)
	}
	var nodes []*node
	if p.Op != PatchRemove {
		if nodes, err = parseNodes(p.XML); err != nil {
			return err
		}
	}
	for _, one := range nodes {
		path := plain + "/" + one.name.Local
		if p.Op == PatchReplace {
			path = plain
			if one.name.Local != target.name.Local {
				return fmt.Errorf("an element %s is not replaced by an element %s", target.name.Local, one.name.Local)
			}
		}
		if slices.Contains(ownElements, path) {
			return fmt.Errorf("%s is what the VM stands on, and no patch can add one", path)
		}
	}
	switch {
	case p.Op == PatchAdd:
		return target.add(nodes, around == nil)
	case around == nil:
		return errors.New("the whole definition cannot be replaced or removed")
	}
	i := slices.Index(around.children, target)
	around.children = slices.Replace(around.children, i, i+1, nodes...)
	return nil
}

// add appends elements. The root has each element once; those that QEMU alone has are put together.
func (n *node) add(nodes []*node, isRoot bool) error {
	for _, one := range nodes {
		if i := slices.IndexFunc(n.children, func(c *node) bool { return c.name == one.name }); isRoot && i >= 0 {
			if one.name.Space != qemuSpace {
				return fmt.Errorf("the definition has an element %s already: add to it, with the path /domain/%[1]s",
					one.name.Local)
			}
			n.children[i].children = append(n.children[i].children, one.children...)
			continue
		}
		n.children = append(n.children, one)
	}
	return nil
}

func (p Patch) applyToAttribute(target *node, name string) error {
	i := target.attribute(name)
	switch {
	case target.name.Local == "domain":
		return errors.New("the attributes of the domain itself, such as its type, cannot be changed by a patch")
	case p.Op == PatchAdd && i >= 0:
		return fmt.Errorf("the element %s has an attribute %s already: replace it", target.name.Local, name)
	case p.Op != PatchAdd && i < 0:
		return fmt.Errorf("the element %s has no attribute %s", target.name.Local, name)
	case p.Op == PatchAdd:
		target.attributes = append(target.attributes, xml.Attr{Name: xml.Name{Local: name}, Value: p.XML})
	case p.Op == PatchReplace:
		target.attributes[i].Value = p.XML
	default:
		target.attributes = slices.Delete(target.attributes, i, i+1)
	}
	return nil
}

// holds reports whether a definition is as the patch says. It is not if libvirt has written what
// the patch says in other words.
func (p Patch) holds(root *node) (bool, error) {
	at, err := parsePatchPath(p.Path)
	if err != nil {
		return false, err
	}
	found := at.find(root)
	if at.attribute != "" {
		return slices.ContainsFunc(found, func(one [2]*node) bool {
			i := one[1].attribute(at.attribute)
			return i >= 0 && (p.Op == PatchRemove || one[1].attributes[i].Value == p.XML)
		}) != (p.Op == PatchRemove), nil
	}
	if p.Op == PatchRemove {
		return len(found) == 0, nil
	}
	nodes, err := parseNodes(p.XML)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(found, func(one [2]*node) bool {
		if p.Op == PatchReplace {
			return nodes[0].within(one[1])
		}
		return !slices.ContainsFunc(nodes,
			func(wanted *node) bool { return !slices.ContainsFunc(one[1].children, wanted.within) })
	}), nil
}

// within reports whether another element has everything that this one has.
func (n *node) within(other *node) bool {
	if n.name != other.name || strings.TrimSpace(n.text) != strings.TrimSpace(other.text) {
		return false
	}
	for _, attribute := range n.attributes {
		if !slices.Contains(other.attributes, attribute) {
			return false
		}
	}
	return !slices.ContainsFunc(n.children,
		func(child *node) bool { return !slices.ContainsFunc(other.children, child.within) })
}

// patched applies patches to a definition, in order. Whatever this package reads of a definition
// must be the same afterwards.
func patched(definition libvirtxml.Domain, patches []Patch) (string, error) {
	plain, err := definition.Marshal()
	if err != nil {
		return "", err
	}
	// The metadata is put back as it is: elements of others may have any form.
	metadata := definition.Metadata
	definition.Metadata = nil
	without, err := definition.Marshal()
	if err != nil {
		return "", err
	}
	nodes, err := parseNodes(without)
	if err != nil {
		return "", err
	}
	if len(nodes) != 1 {
		return "", errors.New("the definition has no element domain")
	}
	vendorFirst(nodes[0])
	for i, patch := range patches {
		if err := patch.apply(nodes[0]); err != nil {
			return "", &PatchError{Index: i, Err: err}
		}
	}
	var body strings.Builder
	if err := nodes[0].write(&body, ""); err != nil {
		return "", err
	}
	text := body.String()
	if metadata != nil {
		end := strings.Index(text, ">") + 1
		text = text[:end] + "<metadata>" + metadata.XML + "</metadata>" + text[end:]
	}
	return text, sameModel(definition.Name, plain, text, patches)
}

// vendorFirst puts the vendor of a USB device before its product, as libvirt's schema has it and libvirtxml does not.
func vendorFirst(n *node) {
	rank := func(one *node) int { return slices.Index([]string{"vendor", "product"}, one.name.Local) }
	if n.name.Local == "source" {
		slices.SortStableFunc(n.children, func(a, b *node) int { return rank(a) - rank(b) })
	}
	for _, child := range n.children {
		vendorFirst(child)
	}
}

// sameModel returns an error if two definitions differ in what this package reads of them.
func sameModel(name, plain, text string, patches []Patch) error {
	read := func(text string) (Domain, error) {
		definition, err := parse(name, text)
		if err != nil {
			return Domain{}, err
		}
		domain, err := decode(definition)
		domain.LostPatches = nil
		return domain, err
	}
	before, err := read(plain)
	if err != nil {
		return err
	}
	after, err := read(text)
	if err != nil {
		return &PatchError{Index: len(patches) - 1, Err: err}
	}
	for i := range reflect.TypeFor[Domain]().NumField() {
		if field := reflect.TypeFor[Domain]().Field(i); !reflect.DeepEqual(reflect.ValueOf(before).Field(i).Interface(),
			reflect.ValueOf(after).Field(i).Interface()) {
			return &PatchError{Index: len(patches) - 1, Err: fmt.Errorf(
				"the patches change what attributes of the VM are for (%s): set those instead", field.Name)}
		}
	}
	return nil
}

// PatchError is why a patch cannot be applied to the definition of a VM.
type PatchError struct {
	// Index counts from 0.
	Index int
	Err   error
}

func (e *PatchError) Error() string { return fmt.Sprintf("patch %d: %v", e.Index+1, e.Err) }

// Unwrap returns the cause.
func (e *PatchError) Unwrap() error { return e.Err }

// lostPatches are the patches, counted from 0, that a definition does not have any more, without
// those that cannot be told.
func lostPatches(definition *libvirtxml.Domain, patches []Patch, unread []int) (lost []int, _ error) {
	if len(patches) == 0 {
		return nil, nil
	}
	text, err := definition.Marshal()
	if err != nil {
		return nil, err
	}
	nodes, err := parseNodes(text)
	if err != nil || len(nodes) != 1 {
		return nil, fmt.Errorf("domain %q: read its definition: %w", definition.Name, err)
	}
	for i, patch := range patches {
		if slices.Contains(unread, i) {
			continue
		}
		holds, err := patch.holds(nodes[0])
		if err != nil {
			return nil, fmt.Errorf("domain %q: read its patch %d: %w", definition.Name, i+1, err)
		}
		if !holds {
			lost = append(lost, i)
		}
	}
	return lost, nil
}

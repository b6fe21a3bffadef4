package hypervisor

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Metadata stands in a definition as one element with JSON in it.
const (
	metadataSpace   = "urn:sharedos:vm:1"
	metadataPrefix  = "sharedos"
	metadataElement = "vm"
)

// encodeMetadata writes the element without its namespace declaration, which libvirt adds.
func encodeMetadata(metadata Metadata) (string, error) {
	data, err := json.Marshal(metadata)
	if err != nil {
		return "", fmt.Errorf("write metadata: %w", err)
	}
	if len(data) > maxMetadata {
		return "", fmt.Errorf("write metadata: %d bytes are more than %d", len(data), maxMetadata)
	}
	return "<" + metadataElement + ">" + escape(string(data)) + "</" + metadataElement + ">", nil
}

// embedMetadata writes the element as a definition holds it, with elements of others.
func embedMetadata(metadata Metadata, foreign ...string) (*libvirtxml.DomainMetadata, error) {
	text, err := encodeMetadata(metadata)
	if err != nil {
		return nil, err
	}
	name := metadataPrefix + ":" + metadataElement
	inner := strings.TrimSuffix(strings.TrimPrefix(text, "<"+metadataElement+">"), "</"+metadataElement+">")
	return &libvirtxml.DomainMetadata{
		XML: "<" + name + " xmlns:" + metadataPrefix + `="` + metadataSpace + `">` + inner + "</" + name + ">" +
			strings.Join(foreign, ""),
	}, nil
}

// escape makes JSON fit for XML: in ASCII, because XML cannot hold every character that JSON can, and with XML's
// own characters written as JSON writes them.
func escape(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r == '<' || r == '>' || r == '&' || r == 0x7f:
			fmt.Fprintf(&out, `\u%04x`, r)
		case r < 0x7f:
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// metadataText finds the JSON in a definition; false if this project did not make it.
func metadataText(domain *libvirtxml.Domain) (string, bool) {
	if domain.Metadata == nil {
		return "", false
	}
	for _, one := range elements(domain.Metadata.XML) {
		if !one.ours() {
			continue
		}
		var text string
		err := xml.Unmarshal([]byte(one.text), &text)
		return text, err == nil
	}
	return "", false
}

// foreignElements lists the elements that others have put into the metadata.
func foreignElements(metadata *libvirtxml.DomainMetadata) (foreign []string) {
	if metadata == nil {
		return nil
	}
	for _, one := range elements(metadata.XML) {
		if !one.ours() {
			foreign = append(foreign, one.text)
		}
	}
	return foreign
}

// element is an element in the metadata of a definition.
type element struct {
	start xml.StartElement
	// text is all of it.
	text string
}

func (e element) ours() bool {
	return e.start.Name == xml.Name{Space: metadataSpace, Local: metadataElement}
}

// elements splits the content of the metadata. It ends at the first element that cannot be read.
func elements(content string) (found []element) {
	decoder := xml.NewDecoder(strings.NewReader(content))
	for {
		from := decoder.InputOffset()
		token, err := decoder.Token()
		if err != nil {
			return found
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		start = start.Copy()
		if err := decoder.Skip(); err != nil {
			return found
		}
		found = append(found, element{start, content[from:decoder.InputOffset()]})
	}
}

// declareInElements makes the elements in the metadata of a definition stand alone: they get the namespaces that the
// element around them declares, which libvirtxml leaves out.
func declareInElements(metadata *libvirtxml.DomainMetadata, definition string) error {
	if metadata == nil || !strings.Contains(definition, "<metadata ") {
		return nil
	}
	var around struct {
		Metadata struct {
			Attributes []xml.Attr `xml:",any,attr"`
		} `xml:"metadata"`
	}
	if err := xml.Unmarshal([]byte(definition), &around); err != nil {
		return err
	}
	var content strings.Builder
	for _, one := range elements(metadata.XML) {
		nameEnds := strings.IndexAny(one.text, " \t\r\n/>")
		if nameEnds < 0 {
			nameEnds = len(one.text)
		}
		content.WriteString(one.text[:nameEnds])
		for _, attribute := range around.Metadata.Attributes {
			if !declares(attribute) ||
				slices.ContainsFunc(one.start.Attr, func(own xml.Attr) bool { return own.Name == attribute.Name }) {
				continue
			}
			content.WriteString(" " + strings.TrimPrefix(attribute.Name.Space+":"+attribute.Name.Local, ":") + `="`)
			if err := xml.EscapeText(&content, []byte(attribute.Value)); err != nil {
				return err
			}
			content.WriteString(`"`)
		}
		content.WriteString(one.text[nameEnds:])
	}
	metadata.XML = content.String()
	return nil
}

// declares reports whether an attribute declares a namespace.
func declares(attribute xml.Attr) bool {
	return attribute.Name.Space == "xmlns" || attribute.Name == xml.Name{Local: "xmlns"}
}

func decodeMetadata(domain *libvirtxml.Domain) (Metadata, error) {
	var metadata Metadata
	text, made := metadataText(domain)
	if !made {
		return metadata, fmt.Errorf("domain %q: %w", domain.Name, ErrForeign)
	}
	if len(text) > 2*maxMetadata {
		return metadata, fmt.Errorf("domain %q: %w: it has %d bytes", domain.Name, ErrDamaged, len(text))
	}
	if err := json.Unmarshal([]byte(text), &metadata); err != nil {
		return metadata, fmt.Errorf("domain %q: %w: %w", domain.Name, ErrDamaged, err)
	}
	return metadata, nil
}

// UnmarshalJSON reads the record of this version, and that of the last one, which had texts by name in Settings. A text
// that does not say what it should is left out, as the last version did.
func (m *Metadata) UnmarshalJSON(data []byte) error {
	type plain Metadata // without this method
	var record struct {
		plain
		Settings map[string]string
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return err
	}
	*m = Metadata(record.plain)
	if len(record.Settings) == 0 {
		return nil
	}
	m.Pinned = digests(record.Settings["held"])
	m.Fallback = stackOf(digests(record.Settings["beside"]))
	m.LeftWith = stackOf(digests(record.Settings["stays"]))
	if initramfs := digests(record.Settings["initramfs"]); len(initramfs) == 1 {
		m.Initramfs = initramfs[0]
	}
	if size, err := strconv.ParseInt(record.Settings["disk"], 10, 64); err == nil {
		m.DiskSize = size
	}
	return nil
}

// digests reads ids that are separated by spaces.
func digests(text string) (ids []tree.Digest) {
	for field := range strings.FieldsSeq(text) {
		if id, err := tree.ParseDigest(field); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// stackOf is the stack of these releases, the base's first; nil if there are none.
func stackOf(releases []tree.Digest) *release.Stack {
	if len(releases) == 0 {
		return nil
	}
	stack := &release.Stack{Base: releases[0]}
	if len(releases) > 1 {
		stack.Components = releases[1:]
	}
	return stack
}

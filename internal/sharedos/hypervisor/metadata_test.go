package hypervisor

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What others have put into the metadata of a domain is read as it stands alone, and written back.
func TestMetadataOfOthersIsReadAndWrittenBack(t *testing.T) {
	const ours = `<sharedos:vm xmlns:sharedos="urn:sharedos:vm:1">{"Pool":"p"}</sharedos:vm>`
	for name, c := range map[string]struct {
		metadata string
		want     []string
	}{
		"none": {"<metadata>" + ours + "</metadata>", nil},
		"around ours": {
			"<metadata>\n  <a:x xmlns:a='urn:a' b=\"1&amp;2\"><a:y/><![CDATA[<>]]></a:x>\n  " + ours +
				"\n  <z xmlns=\"urn:z\"/>\n</metadata>",
			[]string{`<a:x xmlns:a='urn:a' b="1&amp;2"><a:y/><![CDATA[<>]]></a:x>`, `<z xmlns="urn:z"/>`},
		},
		"namespaces of the element around them": {
			`<metadata xmlns:a="urn:a&amp;b" xmlns:sharedos="urn:sharedos:vm:1"><a:x>1</a:x><a:y/><a:z xmlns:a="urn:own" c="d"/>` +
				`<sharedos:vm>{"Pool":"p"}</sharedos:vm></metadata>`,
			[]string{
				`<a:x xmlns:a="urn:a&amp;b" xmlns:sharedos="urn:sharedos:vm:1">1</a:x>`,
				`<a:y xmlns:a="urn:a&amp;b" xmlns:sharedos="urn:sharedos:vm:1"/>`,
				`<a:z xmlns:sharedos="urn:sharedos:vm:1" xmlns:a="urn:own" c="d"/>`,
			},
		},
		"another element of our prefix": {
			`<metadata><sharedos:vm xmlns:sharedos="urn:other">x</sharedos:vm>` + ours + `</metadata>`,
			[]string{`<sharedos:vm xmlns:sharedos="urn:other">x</sharedos:vm>`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(definition string) Domain {
				t.Helper()
				defined, err := parse("web", definition)
				if err != nil {
					t.Fatal(err)
				}
				domain, err := decode(defined)
				if err != nil {
					t.Fatal(err)
				}
				return domain
			}
			domain := read("<domain type='kvm'><name>web</name>" + c.metadata + "</domain>")
			if !slices.Equal(domain.Foreign, c.want) || domain.Metadata.Pool != "p" {
				t.Errorf("read %q, want %q, with %+v", domain.Foreign, c.want, domain.Metadata)
			}
			text, err := platform{virtType: "kvm", hostVSock: true}.encode(domain)
			if err != nil {
				t.Fatal(err)
			}
			if again := read(text); cmp.Diff(domain.Foreign, again.Foreign) != "" || again.Metadata.Pool != "p" {
				t.Errorf("written and read it is %+v", again)
			}
		})
	}
}

package provider

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheCommandOfTerraformIsRead(t *testing.T) {
	dir := t.TempDir()
	plan := filepath.Join(dir, "tf.plan")
	file, err := os.Create(plan)
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(file)
	changes, err := archive.Create("tfplan")
	if err == nil {
		_, err = changes.Write([]byte("\x0a\x03" +
			`{"planned:1":"eyJyZWxlYXNlIjoicjEifQ==","planned:2":"bnVsbA=="}` + "\x00"))
	}
	if err != nil || archive.Close() != nil || file.Close() != nil {
		t.Fatal(err)
	}
	encrypted := filepath.Join(dir, "encrypted.plan")
	if err := os.WriteFile(encrypted, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]struct {
		command       string
		applies, read bool
	}{
		"terraform plan":                           {command: "plan"},
		"terraform -chdir=x plan -out=" + plan:     {command: "plan"},
		"terraform apply":                          {command: "apply"},
		"/bin/tofu apply -input=false " + plan:     {"apply", true, true},
		"terraform apply " + encrypted:             {"apply", true, false},
		"terraform apply -var x=y":                 {command: "apply"},
		"terraform destroy":                        {command: "destroy"},
		"go test ./provider":                       {},
		"terraform test":                           {},
		"terraform":                                {},
		"dlv exec ./terraform-provider-sharedos -": {},
	} {
		of := filepath.Join(dir, "proc", "7")
		if err := os.MkdirAll(of, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"cmdline": strings.Join(strings.Fields(line), "\x00") + "\x00",
			"stat":    "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21",
		} {
			if err := os.WriteFile(filepath.Join(of, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if unread := option(strings.Fields(line+" -refresh=false"), func(string) string { return "" }, "refresh",
			"false", "0"); unread != (want.command == "plan" || want.command == "apply") {
			t.Errorf("%s -refresh=false plans from state alone: %v", line, unread)
		}
		got := readInvocation(filepath.Join(dir, "proc"), 7, func(string) string { return "" })
		if got.command != want.command || got.appliesSaved != want.applies || (got.saved != nil) != want.read ||
			got.destroys != (want.command == "destroy") {
			t.Errorf("%s: %+v", line, got)
		}
		if got.command != "" && got.run != "7-4242" {
			t.Errorf("%s: the run is %q", line, got.run)
		}
		if !want.read {
			continue
		}
		var note releaseNote
		if !got.fromSavedPlan("planned:1", &note) || note.Release != "r1" {
			t.Errorf("%s: the note is %+v", line, note)
		}
		if got.fromSavedPlan("planned:2", &note) || got.fromSavedPlan("planned:3", &note) {
			t.Errorf("%s: there is a note that nobody wrote", line)
		}
	}
	if got := readInvocation(filepath.Join(dir, "proc"), 8, os.Getenv); got.command != "" {
		t.Errorf("of a process that is gone: %+v", got)
	}
}

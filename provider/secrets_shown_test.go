package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	framework "github.com/hashicorp/terraform-plugin-framework/provider"
	providerschema "github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// secret is a part of each value below.
const secret = "hunter2"

// secretValues are texts that hold a secret and that users have given in place of something else.
var secretValues = map[string]string{
	"an OpenSSH key":    "-----BEGIN OPENSSH PRIVATE KEY-----\n" + secret + "\n-----END OPENSSH PRIVATE KEY-----\n",
	"a PKCS #8 key":     "-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----\n",
	"a key on one line": "-----BEGIN PRIVATE KEY-----" + secret + "-----END PRIVATE KEY-----",
	"a PuTTY key":       "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\n" + secret + "\n",
	"an OpenPGP key": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + secret +
		"\n-----END PGP PRIVATE KEY BLOCK-----\n",
	"an age key":           "AGE-SECRET-KEY-1" + secret,
	"a password in a URL":  "ftp://me:" + secret + "@example.com/x",
	"an odd password":      "https://me:" + secret + "/x%zz@example.com/",
	"a port as a password": "https://me:" + secret + "/@example.com",
	"a token in a URL":     "HTTPS://" + secret + "@",
	"a file":               "[default]\naws_secret_access_key = " + secret + "\n",
	"a long line":          strings.Repeat("x", 100) + secret,
}

// refusals runs validators of texts on a value.
func refusals(ctx context.Context, validators []validator.String, at path.Path, value string) (diags diag.Diagnostics) {
	for _, v := range validators {
		rule, ours := v.(textRule)
		if !ours {
			continue // a rule about other attributes, or about the length; see TestOnlyOurRulesSeeTexts
		}
		var resp validator.StringResponse
		rule.ValidateString(ctx, validator.StringRequest{Path: at, ConfigValue: types.StringValue(value)}, &resp)
		diags.Append(resp.Diagnostics...)
	}
	return diags
}

// eachText calls do for each attribute that is a text, however deeply it is nested, and for the elements of lists, sets
// and maps of texts.
func eachText(at path.Path, attributes map[string]schema.Attribute,
	do func(at path.Path, validators []validator.String)) {
	for name, attribute := range attributes {
		at := at.AtName(name)
		switch a := attribute.(type) {
		case schema.StringAttribute:
			do(at, a.Validators)
		case schema.SingleNestedAttribute:
			eachText(at, a.Attributes, do)
		case schema.MapNestedAttribute:
			eachText(at.AtMapKey("x"), a.NestedObject.Attributes, do)
		case schema.ListNestedAttribute:
			eachText(at.AtListIndex(0), a.NestedObject.Attributes, do)
		}
	}
}

func TestNoValidatorPrintsASecret(t *testing.T) {
	count := 0
	check := func(at path.Path, validators []validator.String) {
		for what, value := range secretValues {
			for _, d := range refusals(t.Context(), validators, at, value) {
				count++
				if text := d.Summary() + d.Detail(); strings.Contains(text, secret) {
					t.Errorf("%s: %s is printed:\n%s", at, what, text)
				}
			}
		}
	}
	eachText(path.Empty(), schemaOf(t, newBaseResource()).Attributes, check)
	eachText(path.Empty(), schemaOf(t, newComponentResource()).Attributes, check)
	eachText(path.Empty(), schemaOf(t, &vmResource{}).Attributes, check)
	check(path.Root("package_files"), []validator.String{isPackageFile})
	if count < 100 {
		t.Errorf("only %d diagnostics were looked at", count)
	}
}

// What may be a secret is short, too: where it is most likely, the value is never printed.
func TestARuleForWhatMayBeASecretPrintsNoValue(t *testing.T) {
	for name, rule := range map[string]textRule{
		"key": isKey, "URL": isDownload, "reference": isReference, "path": isLocalPath,
		"package": isPackageFile, "loopback": isLoopbackURL,
	} {
		for _, value := range []string{secret + "\x00", secret + "@x/ y", "x:" + secret + "@y/z", secret + "://%zz"} {
			for _, d := range refusals(t.Context(), []validator.String{rule}, path.Root("x"), value) {
				if text := d.Summary() + d.Detail(); strings.Contains(text, secret) {
					t.Errorf("%s: %q is printed:\n%s", name, value, text)
				}
			}
		}
	}
}

func TestTheServerPrintsNoSecretOfAnyError(t *testing.T) {
	for what, value := range secretValues {
		if what == "a file" || what == "a long line" || what == "an odd password" || what == "a port as a password" {
			continue // only a rule for the attribute can know
		}
		response := &tfprotov6.PlanResourceChangeResponse{Diagnostics: []*tfprotov6.Diagnostic{{Summary: "open " +
			value, Detail: value}}}
		show(response)
		if d := response.Diagnostics[0]; strings.Contains(d.Summary+d.Detail, secret) {
			t.Errorf("%s: %+v", what, d)
		}
		if text := sentence(errors.New("open " + value)); strings.Contains(text, secret) {
			t.Errorf("%s: %s", what, text)
		}
	}
	response := &tfprotov6.ConfigureProviderResponse{Diagnostics: []*tfprotov6.Diagnostic{{Summary: "a\u202eb\x1b[2J",
		Detail: strings.Repeat("x", 1<<20)}}}
	show(response)
	if d := response.Diagnostics[0]; d.Summary != "ab[2J" || len(d.Detail) > maxDiagnostic+3 {
		t.Errorf("%q and %d bytes", d.Summary, len(d.Detail))
	}
}

func TestTheProviderBlockPrintsNoKeyInPlaceOfAPath(t *testing.T) {
	var described framework.SchemaResponse
	New("test", nil).Schema(t.Context(), framework.SchemaRequest{}, &described)
	if _, ok := described.Schema.Attributes["operator_key"].(providerschema.StringAttribute); !ok {
		t.Fatal("there is no operator_key")
	}
	_, _, diags := providerModel{OperatorKey: types.StringValue(secretValues["a PKCS #8 key"])}.config()
	if !diags.HasError() {
		t.Fatal("the content of a key is accepted as its path")
	}
	for _, d := range diags {
		if strings.Contains(d.Summary()+d.Detail(), secret) ||
			!strings.Contains(d.Detail(), "looks like the content of a file") {
			t.Errorf("%s\n%s", d.Summary(), d.Detail())
		}
	}
}

// The bodies are those of ssh-keygen.
const (
	ed25519Body = "AAAAC3NzaC1lZDI1NTE5AAAAIM/HSNBZ58CJGJOtPdqLOrTGKe+HWpA5fRGvDgjq7I0y"
	ecdsaBody   = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBI8KtJ0M/1nUXiiMWx1siyVmWHA+e6WmqXO9Fk1PSl4Mvd7WIi3De2oyHvtrdEYTsmHVyzK6uObGF5kUIrPgLtU="
)

func TestAuthorizedKeys(t *testing.T) {
	for text, want := range map[string]string{
		"ssh-ed25519 " + ed25519Body:                                   "",
		"ssh-ed25519 " + ed25519Body + " me@host\n":                    "",
		"ssh-ed25519 " + ed25519Body + " me@host\r\n\n":                "",
		"ssh-ed25519 " + ed25519Body + " laptop #1":                    "",
		"ssh-ed25519\t" + ed25519Body + " é":                           "",
		`restrict,command="echo # \"a b\"" ssh-ed25519 ` + ed25519Body: "",
		`from="10.0.0.0/8" ssh-ed25519 ` + ed25519Body + " me":         "",
		"ecdsa-sha2-nistp256 " + ecdsaBody + " me":                     "",
		"":                                    "it is empty",
		"\n":                                  "it is empty",
		"# a comment":                         "it is a comment",
		"not a key":                           "it is not a key",
		ed25519Body:                           "it is not a key",
		"ssh-ed25519":                         "it is not a key",
		"ssh-ed25519 AAAA one":                "it is not a key",
		"ssh-ed25519 " + ed25519Body[:40]:     "it is not a key",
		"ssh-rsa " + ed25519Body:              "of two kinds",
		"ssh-ed25519 " + ecdsaBody:            "of two kinds",
		"ssh-ed25519 " + ed25519Body + "\x00": "control characters",
		"ssh-ed25519 " + ed25519Body + "\nssh-ed25519 " + ed25519Body: "it has several",
		secretValues["an OpenSSH key"]:                                "it is a private key",
		secretValues["a key on one line"]:                             "it is a private key",
		secretValues["a PuTTY key"]:                                   "it is a private key",
		"---- BEGIN SSH2 PUBLIC KEY ----\n" + ed25519Body:             "RFC 4716",
	} {
		line, err := authorizedKey(text)
		switch {
		case want == "" && (err != nil || line != strings.TrimSpace(text)):
			t.Errorf("%q is refused: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// A key that was unknown when the configuration was validated is parsed before it is used.
func TestAKeyIsParsedAgainBeforeItIsUsed(t *testing.T) {
	found := plainVM()
	plan := newVMPlan(t, found)
	plan.set(path.Root("ssh_authorized_keys"), []string{secretValues["an OpenSSH key"]})
	diags := plan.model().validate() // as Create and Update do
	if !diags.HasError() || strings.Contains(diags[0].Summary()+diags[0].Detail(), secret) {
		t.Errorf("got %v", diags)
	}
}

// The line end that file() reads is kept in state, and is no difference to the VM.
func TestALineEndOfAKeyIsNoDifference(t *testing.T) {
	key := "ssh-ed25519 " + ed25519Body + " me"
	found := plainVM()
	found.Spec.AuthorizedKeys = []string{key}
	plan := newVMPlan(t, found)
	plan.set(path.Root("ssh_authorized_keys"), []string{key + "\n"})
	model := plan.model()
	spec, diags := model.spec(t.Context())
	if diags.HasError() || len(spec.AuthorizedKeys) != 1 || spec.AuthorizedKeys[0] != key {
		t.Errorf("%q, %v", spec.AuthorizedKeys, diags)
	}
	if diags := model.observe(t.Context(), found); diags.HasError() ||
		!strings.Contains(model.SSHAuthorizedKeys.String(), `\n`) {
		t.Errorf("%s, %v", model.SSHAuthorizedKeys, diags)
	}
	found.Spec.AuthorizedKeys = append(found.Spec.AuthorizedKeys, key+"2")
	if diags := model.observe(t.Context(), found); diags.HasError() || len(model.SSHAuthorizedKeys.Elements()) != 2 {
		t.Errorf("another key is not seen: %s, %v", model.SSHAuthorizedKeys, diags)
	}
}

// The framework's validators of texts print the text. Only those are used that look at its length,
// or at other attributes.
func TestOnlyOurRulesSeeTexts(t *testing.T) {
	allowed := []string{
		"schemavalidator.AlsoRequiresValidator", "schemavalidator.ExactlyOneOfValidator",
		"schemavalidator.ConflictsWithValidator",
		"stringvalidator.lengthBetweenValidator", "stringvalidator.lengthAtLeastValidator",
		"stringvalidator.lengthAtMostValidator",
		"validators.timeDurationValidator", // of timeouts, which the framework defines
	}
	check := func(at path.Path, validators []validator.String) {
		for _, v := range validators {
			if _, ours := v.(textRule); !ours && !slices.Contains(allowed, fmt.Sprintf("%T", v)) {
				t.Errorf("%s has the validator %T, which may print a value: use a textRule", at, v)
			}
		}
	}
	eachText(path.Empty(), schemaOf(t, newBaseResource()).Attributes, check)
	eachText(path.Empty(), schemaOf(t, newComponentResource()).Attributes, check)
	eachText(path.Empty(), schemaOf(t, &vmResource{}).Attributes, check)
}

// A command is not validated as a single text, and may have a password in front of it.
func TestARefusedProgramIsNotPrinted(t *testing.T) {
	for _, program := range []string{"PGPASSWORD=" + secret + " pg_isready", "TOKEN=" + secret + "/x"} {
		diags := refusals(t.Context(), []validator.String{isProgram}, path.Root("command"), program)
		if !diags.HasError() || strings.Contains(diags[0].Summary()+diags[0].Detail(), secret) {
			t.Errorf("%q: %v", program, diags)
		}
	}
}

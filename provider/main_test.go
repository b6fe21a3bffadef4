package provider_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// terraformPath is the binary that the tests run: terraform, or tofu.
var terraformPath string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// gcPercent is GOGC of Terraform and of these tests. A thousand commands of Terraform run, which all end before their
// heaps matter: with the default they take a third more of the processor.
const gcPercent = 400

// findTerraform finds the binary that the tests run: the one that TF_ACC_TERRAFORM_PATH names, or
// terraform or tofu in PATH.
func findTerraform() (string, error) {
	if named := os.Getenv("TF_ACC_TERRAFORM_PATH"); named != "" {
		return named, nil
	}
	for _, name := range []string{"terraform", "tofu"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", errors.New(
		"these tests run a real terraform or tofu, and neither is in PATH: install one of them, or set TF_ACC_TERRAFORM_PATH")
}

// run sets what plugin-testing needs, so that "go test" alone does.
func run(m *testing.M) (int, error) {
	var err error
	if terraformPath, err = findTerraform(); err != nil {
		return 1, err
	}
	host := "registry.terraform.io"
	if strings.HasPrefix(filepath.Base(terraformPath), "tofu") {
		host = "registry.opentofu.org"
	}
	dir, err := os.MkdirTemp("", "sharedos-provider-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // in the temporary directory anyway
	// Ignore the user's configuration and environment.
	configuration := filepath.Join(dir, "terraformrc")
	if err := os.WriteFile(configuration, nil, 0o600); err != nil {
		return 1, err
	}
	for name, value := range map[string]string{
		"TF_ACC": "1", "TF_ACC_TERRAFORM_PATH": terraformPath, "TF_ACC_PROVIDER_HOST": host,
		"TF_CLI_CONFIG_FILE": configuration, "CHECKPOINT_DISABLE": "1",
		"XDG_CACHE_HOME": filepath.Join(dir, "cache"), "XDG_CONFIG_HOME": filepath.Join(dir, "config"),
		"GOGC": strconv.Itoa(gcPercent),
	} {
		if err := os.Setenv(name, value); err != nil {
			return 1, err
		}
	}
	for _, name := range []string{"SHAREDOS_URI", "SHAREDOS_POOL", "SHAREDOS_POOL_PATH", "SHAREDOS_OPERATOR_KEY",
		"SHAREDOS_CACHE", "LIBVIRT_DEFAULT_URI"} {
		if err := os.Unsetenv(name); err != nil {
			return 1, err
		}
	}
	debug.SetGCPercent(gcPercent)
	return m.Run(), nil
}

// serve returns factories of providers on a world. Terraform gets a new provider for every command, as it gets a new
// process outside of tests.
func serve(world *providertest.World) map[string]func() (tfprotov6.ProviderServer, error) {
	return map[string]func() (tfprotov6.ProviderServer, error){
		"sharedos": func() (tfprotov6.ProviderServer, error) {
			return provider.NewServer(provider.New("test", world.Open)), nil
		},
	}
}

// says matches an error of Terraform that contains these texts in this order, whatever the line breaks are.
func says(texts ...string) *regexp.Regexp {
	patterns := make([]string, len(texts))
	for i, text := range texts {
		words := strings.Fields(text)
		for j, word := range words {
			words[j] = regexp.QuoteMeta(word)
		}
		patterns[i] = strings.Join(words, `\s+`)
	}
	return regexp.MustCompile("(?is)" + strings.Join(patterns, ".*"))
}

package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// failure tells one thing that could not be done: what, at which step, why, and what the user can do.
type failure struct {
	// do and object complete "Unable to": "patch", `VM "web-a"`.
	do, object string
	// step is what was being done when it ended; empty if it had not begun.
	step string
	// timeout names the attribute that bounds the operation: "timeouts.create".
	timeout string
	err     error
	// next overrides what follows from err.
	next string
}

func (f failure) summary() string { return fmt.Sprintf("Unable to %s %s", f.do, f.object) }

func (f failure) detail() string {
	var b strings.Builder
	b.WriteString(sentence(f.err))
	if f.step != "" {
		fmt.Fprintf(&b, "\n\nThis was at the step: %s.", f.step)
	}
	next := f.next
	if next == "" {
		next = nextStep(f.err, f.timeout)
	}
	if next != "" {
		b.WriteString("\n\n" + next)
	}
	return b.String()
}

// nextStep tells what to do about an error by its kind; empty if the error says it itself.
func nextStep(err error, timeout string) string {
	var open *openError
	switch {
	case errors.Is(err, context.Canceled):
		return "The operation was interrupted. What was done is kept: apply again, and it goes on from there."
	case errors.Is(err, context.DeadlineExceeded) && timeout != "":
		return fmt.Sprintf("It took longer than %s allows. What was done is kept: apply again, with a larger %s if the host is slow.", timeout, timeout)
	case errors.As(err, &open):
		return fmt.Sprintf("Check that libvirt answers, with: virsh --connect '%s' pool-list --all. "+
			"Another libvirt or pool is chosen with uri and pool in the provider block. State is kept as it was.", open.uri)
	case errors.Is(err, hypervisor.ErrUnreachable), errors.Is(err, store.ErrUnreachable):
		return "Check that libvirt runs and answers, then apply again. State is kept as it was."
	case errors.Is(err, hypervisor.ErrForeign):
		return "That domain is left alone. If the VM in state is gone, drop it from state with: terraform state rm ADDRESS"
	case errors.Is(err, vm.ErrNoAnswer):
		return "What the VM runs is not known, so nothing was changed. Its console log on the host tells how far it came; " +
			"when its agent answers again, apply again."
	case errors.Is(err, store.ErrNotFound):
		return "The pool does not hold what is needed. If another base of the same name was published or deleted meanwhile, plan and apply again."
	case errors.Is(err, publish.ErrNotCached):
		return "Apply again: it is built then."
	case errors.Is(err, source.ErrLimit):
		return "If it is meant to be one operating system, raise limits.content or limits.entries."
	case errors.Is(err, fs.ErrPermission):
		return "Give the user that runs Terraform access to it, or choose another path."
	default:
		return ""
	}
}

// sentence makes an error a sentence: capital first, full stop last, no control characters, which a guest could
// have put there to write on the user's terminal.
func sentence(err error) string {
	text := strings.TrimSpace(printable(err.Error()))
	if text == "" {
		return "The cause is not known."
	}
	first, size := utf8.DecodeRuneInString(text)
	text = string(unicode.ToUpper(first)) + text[size:]
	if !strings.ContainsRune(".!?:", rune(text[len(text)-1])) {
		text += "."
	}
	return text
}

// printable drops control characters but line ends and tabs, and what is not UTF-8.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text)
}

// Bounds on what a guest's answer may put into state.
const (
	maxGuestText = 512  // bytes of one text
	maxGuestList = 1000 // texts of one list
)

// guestText makes a text that a guest sent fit for state.
func guestText(text string) string {
	text = printable(text)
	if len(text) <= maxGuestText {
		return text
	}
	cut := maxGuestText
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// guestTexts makes a list that a guest sent fit for state. It is never nil.
func guestTexts(texts []string) []string {
	fit := make([]string, 0, min(len(texts), maxGuestList+1))
	for i, text := range texts {
		if i == maxGuestList {
			fit = append(fit, fmt.Sprintf("… and %d more", len(texts)-i))
			break
		}
		fit = append(fit, guestText(text))
	}
	return fit
}

// vmName and baseName name objects in diagnostics.
func vmName(name string) string   { return fmt.Sprintf("VM %q", name) }
func baseName(name string) string { return fmt.Sprintf("base %q", name) }

// failed is a failure as diagnostics; failedAt points at the attribute that it is about.
func failed(f failure) diag.Diagnostics {
	return diag.Diagnostics{diag.NewErrorDiagnostic(f.summary(), f.detail())}
}

func failedAt(attribute path.Path, f failure) diag.Diagnostics {
	return diag.Diagnostics{diag.NewAttributeErrorDiagnostic(attribute, f.summary(), f.detail())}
}

// diagError is a diagnostic as an error.
type diagError struct{ diag.Diagnostic }

func (e diagError) Error() string { return e.Summary() + ": " + e.Detail() }

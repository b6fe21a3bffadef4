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

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// failure is an operation that failed: what it was, at which step it failed, why, and what the user can do.
type failure struct {
	// do and object complete "Unable to": "patch", `VM "web-a"`.
	do, object string
	// step is the step at which the operation failed; empty if it had not begun.
	step string
	// timeout is the name of the attribute that limits the operation: "timeouts.create".
	timeout string
	err     error
	// next is what to do next. If it is empty, it follows from err.
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

// itsAddress stands for the address of the resource that a diagnostic is about. Terraform does not
// tell it to a provider, and prints it itself.
const itsAddress = "the address of this resource, which Terraform shows here after \"with\""

// nextStep says what to do about an error, by its kind; empty if the error says so itself.
func nextStep(err error, timeout string) string {
	var open *openError
	switch {
	case errors.Is(err, context.Canceled):
		return "The operation was interrupted. The work done so far is kept. Apply again to continue."
	case errors.Is(err, context.DeadlineExceeded) && timeout != "":
		return fmt.Sprintf("It took longer than %s allows. The work done so far is kept. Apply again to continue, "+
			"with a larger %s if the host is slow.", timeout, timeout)
	case errors.Is(err, release.ErrKeyMode):
		return "Run that chmod, and apply again. If somebody else may have read the key, make VMs and bases anew with another one."
	case errors.Is(err, release.ErrKeyLost):
		return "Put the operator key in its place from a backup, or set operator_key in the provider block to the " +
			"file that holds it. Nothing was changed. If it is lost for good, or if these releases are another " +
			"operator's, make a key of your own at that path, with: openssl genpkey -algorithm ed25519 -out FILE. " +
			"VMs of the lost key can be destroyed with it, and are not refreshed; bases of the lost key can be " +
			"destroyed and made anew."
	case errors.Is(err, release.ErrKey):
		return "Put the operator key in its place from a backup, or set operator_key in the provider block to the " +
			"file that holds it. State is kept as it was."
	case errors.Is(err, vm.ErrExists):
		return "That VM was left alone. Import it, with: terraform import ADDRESS NAME. Or give this one another name."
	case errors.Is(err, vm.ErrImpact):
		return "Nothing was changed. Set refresh.max_impact to what the change needs, or refresh.strategy to " +
			"next_boot to have the new stack take effect at the next start."
	case errors.Is(err, vm.ErrNotLive):
		return notLiveNext
	case errors.Is(err, vm.ErrChecks):
		return "Nothing was changed in the VM. Mend what these health checks look at, and apply again. With " +
			"refresh.require_checks = false, checks that fail before a refresh are left out of account."
	case errors.Is(err, vm.ErrRefused):
		return "Nothing was changed in the VM. Mend what the agent names, and apply again. If it is a layer that " +
			"cannot be read or does not verify, the data source sharedos_verify says which volume of the pool is " +
			"damaged."
	case errors.Is(err, vm.ErrNotReady):
		return "The VM runs, and state has it. See what it waits for in the guest or in its console log. Raise " +
			"ready.timeout if it needs longer, and apply again."
	case errors.Is(err, hypervisor.ErrVSockEnded):
		return "Power the VM off and start it again: virsh destroy NAME, then apply. Its services ran on meanwhile. " +
			"The host's log tells why the daemon ended."
	case errors.Is(err, hypervisor.ErrTooManyLayers):
		return "Have the base begin with a full layer again: lower max_layers in the provider block, and apply a " +
			"change of the base. Or remove components from the VM."
	case errors.Is(err, hypervisor.ErrNoNetwork):
		return "Define that network and start it (virsh net-define, virsh net-start), or name another one in interfaces: virsh net-list --all."
	case errors.Is(err, hypervisor.ErrDamaged):
		return "The domain was left alone. Put its metadata back, with virsh edit, or undefine it, with virsh " +
			"undefine. Its private disk stays in the pool in either case."
	case errors.Is(err, hypervisor.ErrGuestKeeps):
		return "The guest is busy with it, or its kernel cannot give it up. Apply again, or power the VM off and apply: it starts with what it is to have."
	case errors.Is(err, transport.ErrPeerKey):
		return "Something else than the agent that this VM was made with has answered, and was told nothing. If the private disk of the VM was " +
			"replaced or emptied, make the VM anew: run terraform apply -replace= with " + itsAddress + "."
	case errors.Is(err, store.ErrLockLost):
		return "The host or the storage was too slow, or this machine slept. What was done is kept. Apply again."
	case errors.Is(err, store.ErrCorrupt):
		return "Delete the volume with virsh vol-delete, and apply its base or component again: that uploads it anew. Check the storage for errors first."
	case errors.Is(err, rollout.ErrHalted):
		return rolloutNext
	case errors.Is(err, rootfs.ErrNotBootable), errors.Is(err, rootfs.ErrNoKernel), errors.Is(err, bootimage.ErrKernel):
		return "Add to the source what is missing: for Debian, the packages linux-image-cloud-amd64, systemd-sysv, " +
			"kmod and e2fsprogs. The guide on bases lists what a VM needs."
	case errors.Is(err, source.ErrCorrupt):
		return "Get the source again, and compare its digest with that of its publisher."
	case errors.Is(err, source.ErrChanged), errors.Is(err, publish.ErrSourceChanged):
		return "Nothing was published. Apply again when nothing writes to the source."
	case errors.Is(err, vm.ErrProtected):
		return "Nothing was changed. If the VM and its private disk are to go, set deletion_protection to false, " +
			"apply that, and destroy it then. If Terraform plans to replace the VM because it is tainted, first run " +
			"terraform untaint with " +
			itsAddress + "."
	case errors.Is(err, vm.ErrOperator):
		return "Put the operator key with which the VM was made in its place from a backup, or set operator_key in " +
			"the provider block to the file that holds it."
	case errors.Is(err, release.ErrSignature):
		return "It is signed with another operator key. Put the key that signed it in its place from a backup, or " +
			"set operator_key in the provider block to the file that holds it."
	case errors.Is(err, store.ErrConfig):
		return "Change pool or pool_path in the provider block, or the environment variables " + envPool +
			" and " + envPoolPath + "."
	case errors.As(err, &open):
		return fmt.Sprintf("Check that libvirt answers, with: virsh --connect '%s' pool-list --all. To use another "+
			"libvirt or pool, set uri and pool in the provider block. State is kept as it was.", open.uri)
	case errors.Is(err, store.ErrAbsentPool):
		return "Define that storage pool and start it, or choose another one: virsh pool-list --all. State is kept as it was."
	case errors.Is(err, hypervisor.ErrUnreachable), errors.Is(err, store.ErrUnreachable):
		return "Check that libvirt runs and answers, then apply again. State is kept as it was."
	case errors.Is(err, hypervisor.ErrForeign):
		return "That domain was left alone. If the VM in state no longer exists, remove it from state: run terraform " +
			"state rm with " + itsAddress + "."
	case errors.Is(err, vm.ErrNoAnswer):
		return "It is not known what the VM runs, so nothing was changed. Its console log on the host shows how far " +
			"it booted. Apply again when its agent answers."
	case errors.Is(err, compose.ErrStack):
		return stackAdvice(err)
	case errors.Is(err, store.ErrNoPool):
		return "If the pool was undefined, define it again with its directory, and start it: virsh pool-define-as " +
			"NAME dir --target DIRECTORY; virsh pool-start NAME. Otherwise set uri, pool and pool_path in the " +
			"provider block as they were."
	case errors.Is(err, store.ErrNotFound):
		return "It is missing from the pool. If another configuration published or deleted a base or component of " +
			"the same name in the meantime, plan and apply again."
	case errors.Is(err, publish.ErrNothing):
		return "Remove the component, or change its source to one that adds something."
	case errors.Is(err, publish.ErrNotCached):
		return "Apply again to build it."
	case errors.Is(err, source.ErrLimit):
		return "If the source is really a single operating system, raise limits.content or limits.entries."
	case errors.Is(err, fs.ErrPermission):
		return "Give the user that runs Terraform access to it, or choose another path."
	default:
		return ""
	}
}

// sentence turns an error into a sentence: with a capital letter, a full stop, and only with what can be shown.
func sentence(err error) string {
	text := strings.TrimSpace(showable(err.Error()))
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

// Limits on the texts of a guest in state.
const (
	maxGuestText = 512  // bytes of one text
	maxGuestList = 1000 // texts of one list
)

// guestText makes one line of a text from a guest and limits its length.
func guestText(text string) string { return plain.Cut(plain.Hide(plain.Line(text)), maxGuestText) }

// guestTexts does the same to each text in a list from a guest, and limits the length of the list. It is never nil.
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

// vmName names a VM in diagnostics.
func vmName(name string) string { return fmt.Sprintf("VM %q", name) }

// failed turns a failure into diagnostics. failedAt also names the attribute that the failure is about.
func failed(f failure) diag.Diagnostics {
	return diag.Diagnostics{diag.NewErrorDiagnostic(f.summary(), f.detail())}
}

func failedAt(attribute path.Path, f failure) diag.Diagnostics {
	return diag.Diagnostics{diag.NewAttributeErrorDiagnostic(attribute, f.summary(), f.detail())}
}

// diagError is a diagnostic as an error.
type diagError struct{ diag.Diagnostic }

func (e diagError) Error() string { return e.Summary() + ": " + e.Detail() }

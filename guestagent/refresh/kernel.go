package refresh

import (
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrKernel means that the uploaded kernel is not the one of the target's signed manifest.
var ErrKernel = errors.New("not the kernel of the target's manifest")

// kernelFiles are the kernel and the initramfs that the host uploaded. Their digests were checked then.
type kernelFiles struct{ kernel, initramfs io.ReadCloser }

// Close closes both files.
func (k kernelFiles) Close() error { return errors.Join(k.kernel.Close(), k.initramfs.Close()) }

// openKernel opens the files for a kexec.
func (r *run) openKernel() (files kernelFiles, err error) {
	signed, err := openSide(r.request.GetTarget().GetTo(), r.Operators)
	if err != nil {
		return files, fmt.Errorf("target: %w", err)
	}
	wanted, err := kernelOf(signed.manifest, r.request.GetKernel())
	if err != nil {
		return files, err
	}
	initramfs, err := tree.ParseDigest(r.request.GetInitramfs())
	if err != nil {
		return files, fmt.Errorf("initramfs: %w", err)
	}
	if files.kernel, err = r.Blobs.Open(wanted); err != nil {
		return files, fmt.Errorf("kernel: %w", err)
	}
	if files.initramfs, err = r.Blobs.Open(initramfs); err != nil {
		return files, errors.Join(fmt.Errorf("initramfs: %w", err), files.kernel.Close())
	}
	return files, nil
}

// kernelOf is the digest of a stack's kernel, which the request has to name, too.
func kernelOf(stack *release.StackManifest, named string) (tree.Digest, error) {
	digest, err := tree.ParseDigest(named)
	if err != nil {
		return digest, fmt.Errorf("kernel: %w", err)
	}
	if digest != stack.Kernel.Image.Digest {
		return digest, fmt.Errorf("%w: %s, and it names %s", ErrKernel, digest, stack.Kernel.Image.Digest)
	}
	return digest, nil
}

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ociRegistry is an image in a registry. What is fetched of it goes into the cache of blobs.
type ociRegistry struct {
	repository *remote.Repository
	// reference is a tag or a digest.
	reference string
	pinned    string
	blobs     blobCache
	limits    Limits
}

// errReference means that a reference is not one of an image in a registry.
var errReference = errors.New(`not the reference of an image: write it with its registry, as in "docker.io/library/debian:13"`)

// registry opens the registry of the reference with the credentials that Docker's configuration has for it, from its
// file or by its credential helpers.
func (o *OCI) registry(context.Context) (*ociRegistry, error) {
	repository, err := remote.NewRepository(o.Reference)
	// A host has a dot or a port or is this one; anything else is what Docker looks up in docker.io.
	if err != nil || !strings.ContainsAny(repository.Reference.Registry, ".:") && repository.Reference.Registry != "localhost" {
		return nil, errors.Join(fmt.Errorf("%q is %w", o.Reference, errReference), err)
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Docker's configuration: %w", err)
	}
	repository.Client = &auth.Client{
		Client: &http.Client{Transport: retry.NewTransport(newTransport()), CheckRedirect: noDowngrade},
		Cache:  auth.NewCache(), Credential: credentials.Credential(store),
	}
	repository.PlainHTTP = isLoopback(repository.Reference.Host())
	if o.PlainHTTP != nil {
		repository.PlainHTTP = *o.PlainHTTP
	}
	reference := repository.Reference.ReferenceOrDefault()
	return &ociRegistry{repository, reference, o.Digest, o.blobs(), o.Limits.withDefaults()}, nil
}

// newTransport bounds the waits of an HTTP connection but for those between the bytes of an answer.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       15 * time.Second,
		ForceAttemptHTTP2:     true,
		// Digests are of what the other side stores.
		DisableCompression: true,
	}
}

// noDowngrade follows up to ten redirects, and none that leaves TLS.
func noDowngrade(request *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= 10:
		return errors.New("more than ten redirects")
	case via[len(via)-1].URL.Scheme == "https" && request.URL.Scheme != "https":
		return fmt.Errorf("redirected from https to %s", request.URL.Scheme)
	default:
		return nil
	}
}

// isLoopback reports whether a host, with or without a port, is this machine.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (r *ociRegistry) resolve(ctx context.Context) (tree.Digest, error) {
	if r.pinned != "" {
		return tree.ParseDigest(r.pinned)
	}
	if d, err := tree.ParseDigest(r.reference); err == nil {
		return d, nil
	}
	descriptor, err := r.repository.Resolve(ctx, r.reference)
	if err != nil {
		return tree.Digest{}, err
	}
	return sha256Of(descriptor.Digest)
}

func (r *ociRegistry) metadata(ctx context.Context, d tree.Digest, manifest bool) (_ []byte, err error) {
	file, err := r.blobs.open(ctx, d, -1, maxImageMetadata, func(ctx context.Context, _ int64) (io.ReadCloser, int64, error) {
		if manifest {
			_, body, err := r.repository.Manifests().FetchReference(ctx, d.String())
			return body, 0, err
		}
		_, body, err := r.repository.Blobs().FetchReference(ctx, d.String())
		return body, 0, err
	}, func(int64) {})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(io.LimitReader(file, maxImageMetadata))
	if err == nil && tree.Sum(text) != d {
		err = r.damaged(d)
	}
	return text, err
}

// damaged reports a blob of the cache that is not what it was, and drops it.
func (r *ociRegistry) damaged(d tree.Digest) error {
	return errors.Join(fmt.Errorf("the copy in the cache is %w; it was dropped: try again", ErrCorrupt), r.blobs.drop(d))
}

func (r *ociRegistry) layer(ctx context.Context, layer ociLayer, tell func(int64)) (*os.File, error) {
	return r.blobs.open(ctx, layer.digest, layer.size, r.limits.Content, func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
		body, err := r.repository.Blobs().Fetch(ctx, ocispec.Descriptor{
			MediaType: layer.descriptor.MediaType, Digest: digest.Digest(layer.digest.String()), Size: layer.size,
		})
		if err != nil || offset == 0 {
			return body, 0, err
		}
		// A registry that cannot begin in the middle begins at the beginning.
		if seeker, ok := body.(io.Seeker); ok {
			if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
				return nil, 0, errors.Join(err, body.Close())
			}
			return body, offset, nil
		}
		return body, 0, nil
	}, tell)
}

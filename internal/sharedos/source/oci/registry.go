package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// registry is an image in a registry. Its blobs are downloaded into the cache.
type registry struct {
	repository *remote.Repository
	// reference is a tag or a digest.
	reference string
	// pinned is the digest that replaces the reference; empty if there is none.
	pinned string
	blobs  fetch.Blobs
	limits source.Limits
}

// errReference means that a text does not refer to an image in a registry.
var errReference = errors.New(
	`not the reference of an image: write it with its registry, as in "docker.io/library/debian:13"`)

// registry returns the registry of the reference, with the credentials from Docker's configuration: from its file or
// from its credential helpers.
func (s *Source) registry() (*registry, error) {
	repository, err := remote.NewRepository(s.Reference)
	// A host has a dot or a port or is localhost. Docker looks up any other name in docker.io.
	if err != nil || !strings.ContainsAny(repository.Reference.Registry, ".:") &&
		repository.Reference.Registry != "localhost" {
		return nil, errors.Join(fmt.Errorf("%q is %w", s.Reference, errReference), err)
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Docker's configuration: %w", err)
	}
	repository.Client = &auth.Client{
		Client: &http.Client{Transport: retry.NewTransport(fetch.NewTransport()), CheckRedirect: fetch.NoDowngrade},
		Cache:  auth.NewCache(), Credential: credentials.Credential(store),
	}
	repository.PlainHTTP = isLoopback(repository.Reference.Host())
	if s.PlainHTTP != nil {
		repository.PlainHTTP = *s.PlainHTTP
	}
	reference := repository.Reference.ReferenceOrDefault()
	return &registry{repository, reference, s.Digest, fetch.BlobsIn(s.CacheDir), s.Limits.OrDefault()}, nil
}

// isLoopback reports whether a host, with or without a port, is this machine.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (r *registry) resolve(ctx context.Context) (tree.Digest, error) {
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

func (r *registry) metadata(ctx context.Context, d tree.Digest, isManifest bool) (_ []byte, err error) {
	get := func(ctx context.Context, _ int64) (io.ReadCloser, int64, error) {
		if isManifest {
			_, body, err := r.repository.Manifests().FetchReference(ctx, d.String())
			return body, 0, err
		}
		_, body, err := r.repository.Blobs().FetchReference(ctx, d.String())
		return body, 0, err
	}
	file, err := r.blobs.Open(ctx, fetch.Blob{Digest: d, Size: -1, Limit: maxMetadata}, get, func(int64) {})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(io.LimitReader(file, maxMetadata))
	if err == nil && tree.Sum(text) != d {
		return nil, errors.Join(fmt.Errorf("the copy in the cache is %w; it was removed: try again", source.ErrCorrupt),
			r.blobs.Remove(d))
	}
	return text, err
}

func (r *registry) layer(ctx context.Context, layer layer, progress func(int64)) (*os.File, error) {
	get := func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
		body, err := r.repository.Blobs().Fetch(ctx, ocispec.Descriptor{
			MediaType: layer.mediaType, Digest: digest.Digest(layer.digest.String()), Size: layer.size,
		})
		if err != nil || offset == 0 {
			return body, 0, err
		}
		// The body can seek only if the registry supports range requests.
		if seeker, ok := body.(io.Seeker); ok {
			if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
				return nil, 0, errors.Join(err, body.Close())
			}
			return body, offset, nil
		}
		return body, 0, nil
	}
	return r.blobs.Open(ctx, fetch.Blob{Digest: layer.digest, Size: layer.size, Limit: r.limits.Content}, get, progress)
}

package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Download is a file at an http or https URL, of a digest that is known beforehand. The file is cached under that
// digest and verified before anything of it is used. An interrupted download is resumed.
type Download struct {
	// URL of the file. A user name, a password and a query in it are sent, and are not shown.
	URL string
	// Digest is the SHA-256 of the file.
	Digest tree.Digest
}

// String returns the URL without what may be a secret in it: its user, password and query.
func (d Download) String() string { return plain.Hide(d.URL) }

// File returns the path of the file in the cache. It downloads the file if it is not there, of at most limit bytes. A
// damaged copy is downloaded again.
func (d Download) File(ctx context.Context, cacheDir string, limit int64, progress source.Progress) (string, error) {
	if cacheDir == "" {
		return "", errors.New("there is no cache directory")
	}
	blobs := BlobsIn(cacheDir)
	received := progress.Counter("fetching "+d.String(), 0)
	for range 2 {
		blob, err := blobs.Open(ctx, Blob{Digest: d.Digest, Size: -1, Limit: limit}, d.get, received)
		if err != nil {
			return "", err
		}
		path := blob.Name()
		if err := blob.Close(); err != nil {
			return "", err
		}
		file, err := cache.OpenFile(path)
		if err != nil {
			return "", err
		}
		got, err := file.Digest(ctx, cacheDir)
		if err = errors.Join(err, file.Close()); err != nil {
			return "", err
		}
		if got == d.Digest {
			return path, nil
		}
		if err := blobs.Remove(d.Digest); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("the cache does not keep what is written to it: %w", source.ErrCorrupt)
}

// request requests the file from an offset on.
func (d Download) request(ctx context.Context, method string, offset int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, d.URL, nil)
	if err != nil {
		return nil, err
	}
	if request.URL.Scheme != "http" && request.URL.Scheme != "https" || request.URL.Host == "" {
		return nil, fmt.Errorf("%s is no http or https URL", d)
	}
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	client := &http.Client{Transport: NewTransport(), CheckRedirect: NoDowngrade}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return response, nil
	default:
		return nil, errors.Join(fmt.Errorf("%s: the server answers %s", d, response.Status), response.Body.Close())
	}
}

// get is a Fetcher.
func (d Download) get(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
	response, err := d.request(ctx, http.MethodGet, offset)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0:
		// What was received so far is not the beginning of the file that the server has now.
		if err := response.Body.Close(); err != nil {
			return nil, 0, err
		}
		return d.get(ctx, 0)
	case response.StatusCode == http.StatusPartialContent:
		var from int64
		sent := response.Header.Get("Content-Range")
		if _, err := fmt.Sscanf(strings.ToLower(sent), "bytes %d-", &from); err != nil || from != offset {
			return nil, 0, errors.Join(fmt.Errorf("%s: asked for byte %d, and the server sends %q: %w", d, offset,
				source.Shorten(sent), source.ErrCorrupt), response.Body.Close())
		}
		return response.Body, from, nil
	default:
		return response.Body, 0, nil
	}
}

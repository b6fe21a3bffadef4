package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Download is a file that HTTP or HTTPS brings, of a digest that is known beforehand. It is kept in the cache by that
// digest, and nothing of it is used before it was checked against it; where fetching was cut off, it goes on.
type Download struct {
	// URL of the file. A user and a password in it are sent, and not shown.
	URL string
	// Digest is the SHA-256 of the file.
	Digest tree.Digest
}

// String names the URL, without its password.
func (d Download) String() string {
	if u, err := url.Parse(d.URL); err == nil {
		return u.Redacted()
	}
	return d.URL
}

func downloads(cacheDir string) blobCache { return blobCache{filepath.Join(cacheDir, "blobs")} }

// fetch returns the path of the file in the cache, and fetches it first if it is not there, of at most that many bytes.
// A copy in the cache that was damaged is dropped and fetched again.
func (d Download) fetch(ctx context.Context, cacheDir string, most int64, tell func(int64)) (string, error) {
	if cacheDir == "" {
		return "", errors.New("there is no cache directory")
	}
	blobs := downloads(cacheDir)
	for range 2 {
		file, err := blobs.open(ctx, d.Digest, -1, most, d.get, tell)
		if err != nil {
			return "", err
		}
		info, err := file.Stat()
		if err != nil {
			return "", errors.Join(err, file.Close())
		}
		got, err := digestOnce(ctx, cacheDir, file, identify(file.Name(), info))
		if err = errors.Join(err, file.Close()); err != nil {
			return "", err
		}
		if got == d.Digest {
			return file.Name(), nil
		}
		if err := blobs.drop(d.Digest); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("the cache does not keep what is written to it: %w", ErrCorrupt)
}

// request asks for the file from an offset on.
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
	client := &http.Client{Transport: newTransport(), CheckRedirect: noDowngrade}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusPartialContent && response.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		return nil, errors.Join(fmt.Errorf("%s: the server answers %s", d, response.Status), response.Body.Close())
	}
	return response, nil
}

// get is a fetcher.
func (d Download) get(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
	response, err := d.request(ctx, http.MethodGet, offset)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0:
		// What is there is not the beginning of what the server has now.
		if err := response.Body.Close(); err != nil {
			return nil, 0, err
		}
		return d.get(ctx, 0)
	case response.StatusCode == http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(strings.ToLower(response.Header.Get("Content-Range")), "bytes %d-", &from); err != nil || from != offset {
			return nil, 0, errors.Join(fmt.Errorf("%s: asked for byte %d, and the server sends %q: %w", d, offset,
				shorten(response.Header.Get("Content-Range")), ErrCorrupt), response.Body.Close())
		}
		return response.Body, from, nil
	default:
		return response.Body, 0, nil
	}
}

// readableAtPlan reports whether the file is in the cache, or the server says that it has at most 256 MiB.
func (d Download) readableAtPlan(cacheDir string) bool {
	if has, err := downloads(cacheDir).has(d.Digest); err == nil && has {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), planWait)
	defer cancel()
	response, err := d.request(ctx, http.MethodHead, 0)
	if err != nil {
		// Whoever asks next is told.
		return true
	}
	_ = response.Body.Close() // it is empty
	return response.ContentLength >= 0 && response.ContentLength <= maxPlanFetch
}

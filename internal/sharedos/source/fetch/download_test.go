package fetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// fileServer serves one file on 127.0.0.1 and keeps the ranges that it is asked for.
type fileServer struct {
	*httptest.Server
	mu    sync.Mutex
	data  []byte
	asked []string
	// answer takes the place of serving the file; nil serves it.
	answer func(w http.ResponseWriter, r *http.Request)
}

func newFileServer(t *testing.T, data []byte) *fileServer {
	t.Helper()
	s := &fileServer{data: data}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.Header.Get("Range")))
		if s.answer != nil {
			s.answer(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(s.data)))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *fileServer) download(data []byte) *fetch.Download {
	return &fetch.Download{URL: s.URL + "/rootfs.tar.gz", Digest: tree.Sum(data)}
}

// cutOff sends the file from an offset on and ends the connection in the middle of what is left.
func (s *fileServer) cutOff(w http.ResponseWriter, from int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(s.data)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(s.data)-1, len(s.data)))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(s.data[from : from+(len(s.data)-from)/2]) // to a connection that ends
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	sourcetest.Must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

func TestDownloadIsFetchedOnceAndIsTheSameAsAFile(t *testing.T) {
	data := gzipped(t, sourcetest.Tar(t, sourcetest.Bootable("6.1")...))
	server, cache := newFileServer(t, data), t.TempDir()
	src := archive.Source{Download: server.download(data), CacheDir: cache}
	path := filepath.Join(t.TempDir(), "rootfs")
	sourcetest.WriteOld(t, path, data)
	want, err := archive.Source{Path: path}.Fingerprint(t.Context())
	sourcetest.Must(t, err)
	if got, err := src.Fingerprint(t.Context()); err != nil || got != want || len(server.asked) > 0 {
		t.Errorf("%s, %v, want %s without a question: %q", got, err, want, server.asked)
	}
	for range 2 {
		r, err := sourcetest.ReadSystem(t, src, nil)
		sourcetest.Must(t, err)
		if r.Kernel.Release != "6.1" {
			t.Errorf("%+v", r.Kernel)
		}
	}
	if !slices.Equal(server.asked, []string{"GET"}) {
		t.Errorf("the server was asked %q", server.asked)
	}
	// A copy that was damaged is noticed and fetched again.
	blobs, err := filepath.Glob(filepath.Join(cache, "blobs", "*"))
	if sourcetest.Must(t, err); len(blobs) != 1 {
		t.Fatalf("the cache has %q", blobs)
	}
	damaged := slices.Clone(data)
	damaged[len(data)/2] ^= 1
	sourcetest.Must(t, os.WriteFile(blobs[0], damaged, 0o600))
	_, err = sourcetest.ReadSystem(t, src, nil)
	sourcetest.Must(t, err)
	if len(server.asked) != 2 {
		t.Errorf("the server was asked %q", server.asked)
	}
}

func TestDownloadGoesOnWhereItWasCutOff(t *testing.T) {
	data := []byte(sourcetest.Noise(1 << 20))
	stream := sourcetest.Tar(t, sourcetest.File("noise", string(data)))
	server := newFileServer(t, stream)
	cuts := 0
	server.answer = func(w http.ResponseWriter, r *http.Request) {
		from := 0
		if text := r.Header.Get("Range"); text != "" {
			_, err := fmt.Sscanf(text, "bytes=%d-", &from)
			sourcetest.Must(t, err)
		}
		if cuts++; cuts > 4 {
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(stream)))
			return
		}
		server.cutOff(w, from)
	}
	tr, done, err := sourcetest.Read(t, archive.Source{Download: server.download(stream), CacheDir: t.TempDir()})
	sourcetest.Must(t, err)
	if e, ok := tr.Lookup("noise"); !ok || e.Digest != tree.Sum(data) {
		t.Error("what was put together is not what was sent")
	}
	sourcetest.Must(t, done())
	half := len(stream) / 2
	if want := fmt.Sprintf("GET bytes=%d-", half); len(server.asked) != 5 || server.asked[1] != want {
		t.Errorf("asked %q, want the second to be %s", server.asked, want)
	}
}

func TestDownloadGoesOnInAnotherProcess(t *testing.T) {
	stream := sourcetest.Tar(t, sourcetest.File("noise", sourcetest.Noise(1<<20)))
	server, cache := newFileServer(t, stream), t.TempDir()
	src := archive.Source{Download: server.download(stream), CacheDir: cache}
	cut := false
	server.answer = func(w http.ResponseWriter, _ *http.Request) {
		if cut {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		cut = true
		server.cutOff(w, 0)
	}
	if _, _, err := sourcetest.Read(t, src); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v", err)
	}
	server.answer, server.asked = nil, nil
	_, done, err := sourcetest.Read(t, src)
	sourcetest.Must(t, err)
	sourcetest.Must(t, done())
	if want := fmt.Sprintf("GET bytes=%d-", len(stream)/2); !slices.Equal(server.asked, []string{want}) {
		t.Errorf("asked %q, want %s", server.asked, want)
	}
}

func TestDownloadUsesNothingThatItDidNotCheck(t *testing.T) {
	stream := sourcetest.Tar(t, sourcetest.Bootable("6.1")...)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		limit  int64
		err    error
		want   string
	}{
		"other bytes": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(sourcetest.Tar(t, sourcetest.File("evil", "")))
		}, 0, source.ErrCorrupt, "the received file has the digest"},
		"nothing": {func(http.ResponseWriter, *http.Request) {}, 0, source.ErrCorrupt,
			"the received file has the digest"},
		"not there": {http.NotFound, 0, nil, "404"},
		"more than allowed": {func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				_, _ = w.Write(make([]byte, 1<<16))
			}
		}, 1 << 20, source.ErrLimit, "raise the limit"},
		"out of range": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(http.StatusPartialContent)
		}, 0, source.ErrCorrupt, "asked for byte 0"},
		"a redirect elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, 0, nil, "unsupported protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newFileServer(t, stream)
			server.answer = c.answer
			cache := t.TempDir()
			_, _, err := sourcetest.Read(t,
				archive.Source{Download: server.download(stream), CacheDir: cache,
					Limits: source.Limits{Content: c.limit}})
			if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) ||
				!strings.Contains(err.Error(), server.URL) {
				t.Errorf("got %v, want %v that says %s", err, c.err, c.want)
			}
			server.answer = nil
			_, done, err := sourcetest.Read(t, archive.Source{Download: server.download(stream), CacheDir: cache})
			sourcetest.Must(t, err)
			sourcetest.Must(t, done())
		})
	}
}

func TestDownloadShowsNoPassword(t *testing.T) {
	server := newFileServer(t, nil)
	server.answer = http.NotFound
	download := fetch.Download{URL: strings.Replace(server.URL, "://", "://us:secret@", 1) + "/?X-Amz-Signature=secret"}
	_, _, err := sourcetest.Read(t, archive.Source{Download: &download, CacheDir: t.TempDir()})
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "://(hidden)@") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"ftp://127.0.0.1/x", "/etc/passwd", "file:///etc/passwd", "http://"} {
		_, _, err := sourcetest.Read(t, archive.Source{Download: &fetch.Download{URL: bad}, CacheDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), "http or https URL") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestDownloadThatFallsSilentEnds(t *testing.T) {
	fetch.SetSilence(t, 200)
	server := newFileServer(t, nil)
	release := make(chan struct{})
	server.answer = func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	defer close(release)
	_, _, err := sourcetest.Read(t, archive.Source{Download: server.download([]byte("x")), CacheDir: t.TempDir()})
	if !errors.Is(err, fetch.ErrSilent) {
		t.Errorf("got %v, want ErrSilent", err)
	}
}

func TestFetchingEndsWithItsContext(t *testing.T) {
	server := newFileServer(t, nil)
	asked, release := make(chan struct{}), make(chan struct{})
	server.answer = func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(asked)
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	defer close(release)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	go func() {
		<-asked
		cancel(stop)
	}()
	began := time.Now()
	_, err := archive.Source{Download: server.download([]byte("x")), CacheDir: t.TempDir()}.Open(ctx, nil)
	if !errors.Is(err, stop) || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v, want the cause of the cancellation", time.Since(began), err)
	}
}

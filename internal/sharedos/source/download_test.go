package source_test

import (
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

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
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

func (s *fileServer) download(data []byte) *source.Download {
	return &source.Download{URL: s.URL + "/rootfs.tar.gz", Digest: tree.Sum(data)}
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

func noise(n int) string {
	b := make([]byte, n)
	state := uint32(1)
	for i := range b {
		state = state*1664525 + 1013904223
		b[i] = byte(state >> 24)
	}
	return string(b)
}

func TestDownloadIsFetchedOnceAndIsTheSameAsAFile(t *testing.T) {
	data := pack(t, "tar.gz", makeTar(t, bootableItems("6.1")...))
	server, cache := newFileServer(t, data), t.TempDir()
	archive := source.Archive{Download: server.download(data), CacheDir: cache}
	path := filepath.Join(t.TempDir(), "rootfs")
	write(t, path, data)
	want, err := source.Archive{Path: path}.Fingerprint(t.Context())
	must(t, err)
	if got, err := archive.Fingerprint(t.Context()); err != nil || got != want || len(server.asked) > 0 {
		t.Errorf("%s, %v, want %s without a question: %q", got, err, want, server.asked)
	}
	if !archive.ReadableAtPlan() {
		t.Error("a small file is not readable at plan")
	}
	for range 2 {
		r, err := readTree(t, archive, nil)
		must(t, err)
		if r.Kernel.Release != "6.1" {
			t.Errorf("%+v", r.Kernel)
		}
	}
	if !slices.Equal(server.asked, []string{"HEAD", "GET"}) || !archive.ReadableAtPlan() {
		t.Errorf("the server was asked %q", server.asked)
	}
	// A copy that was damaged is noticed and fetched again.
	blobs, err := filepath.Glob(filepath.Join(cache, "blobs", "*"))
	if must(t, err); len(blobs) != 1 {
		t.Fatalf("the cache has %q", blobs)
	}
	damaged := slices.Clone(data)
	damaged[len(data)/2] ^= 1
	must(t, os.WriteFile(blobs[0], damaged, 0o600))
	_, err = readTree(t, archive, nil)
	must(t, err)
	if len(server.asked) != 3 {
		t.Errorf("the server was asked %q", server.asked)
	}
}

func TestDownloadGoesOnWhereItWasCutOff(t *testing.T) {
	data := []byte(noise(1 << 20))
	stream := makeTar(t, fileItem("noise", string(data)))
	server := newFileServer(t, stream)
	cuts := 0
	server.answer = func(w http.ResponseWriter, r *http.Request) {
		from := 0
		if text := r.Header.Get("Range"); text != "" {
			_, err := fmt.Sscanf(text, "bytes=%d-", &from)
			must(t, err)
		}
		if cuts++; cuts > 4 {
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(stream)))
			return
		}
		server.cutOff(w, from)
	}
	tr, done, err := readSource(t, source.Archive{Download: server.download(stream), CacheDir: t.TempDir()})
	must(t, err)
	if e, ok := tr.Lookup("noise"); !ok || e.Digest != tree.Sum(data) {
		t.Error("what was put together is not what was sent")
	}
	must(t, done())
	half := len(stream) / 2
	if want := fmt.Sprintf("GET bytes=%d-", half); len(server.asked) != 5 || server.asked[1] != want {
		t.Errorf("asked %q, want the second to be %s", server.asked, want)
	}
}

func TestDownloadGoesOnInAnotherProcess(t *testing.T) {
	stream := makeTar(t, fileItem("noise", noise(1<<20)))
	server, cache := newFileServer(t, stream), t.TempDir()
	archive := source.Archive{Download: server.download(stream), CacheDir: cache}
	cut := false
	server.answer = func(w http.ResponseWriter, _ *http.Request) {
		if cut {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		cut = true
		server.cutOff(w, 0)
	}
	if _, _, err := readSource(t, archive); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v", err)
	}
	server.answer, server.asked = nil, nil
	_, done, err := readSource(t, archive)
	must(t, err)
	must(t, done())
	if want := fmt.Sprintf("GET bytes=%d-", len(stream)/2); !slices.Equal(server.asked, []string{want}) {
		t.Errorf("asked %q, want %s", server.asked, want)
	}
}

func TestDownloadUsesNothingThatItDidNotCheck(t *testing.T) {
	stream := makeTar(t, bootableItems("6.1")...)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		limit  int64
		err    error
		want   string
	}{
		"other bytes": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(makeTar(t, fileItem("evil", ""))) }, 0, source.ErrCorrupt, "what comes has the digest"},
		"nothing":     {func(http.ResponseWriter, *http.Request) {}, 0, source.ErrCorrupt, "what comes has the digest"},
		"not there":   {http.NotFound, 0, nil, "404"},
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
			_, _, err := readSource(t, source.Archive{Download: server.download(stream), CacheDir: cache, Limits: source.Limits{Content: c.limit}})
			if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), server.URL) {
				t.Errorf("got %v, want %v that says %s", err, c.err, c.want)
			}
			server.answer = nil
			_, done, err := readSource(t, source.Archive{Download: server.download(stream), CacheDir: cache})
			must(t, err)
			must(t, done())
		})
	}
}

func TestDownloadShowsNoPassword(t *testing.T) {
	server := newFileServer(t, nil)
	server.answer = http.NotFound
	download := source.Download{URL: strings.Replace(server.URL, "://", "://us:secret@", 1)}
	_, _, err := readSource(t, source.Archive{Download: &download, CacheDir: t.TempDir()})
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "us:xxxxx@") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"ftp://127.0.0.1/x", "/etc/passwd", "file:///etc/passwd", "http://"} {
		_, _, err := readSource(t, source.Archive{Download: &source.Download{URL: bad}, CacheDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), "http or https URL") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestDownloadThatFallsSilentEnds(t *testing.T) {
	source.SetSilence(t, 200)
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
	_, _, err := readSource(t, source.Archive{Download: server.download([]byte("x")), CacheDir: t.TempDir()})
	if !errors.Is(err, source.ErrSilent) {
		t.Errorf("got %v, want ErrSilent", err)
	}
}

func TestDownloadOfADiskImage(t *testing.T) {
	dir, want := smallRoot(t)
	raw := diskOf(t, "", map[int64]string{0: ext4Of(t, dir)})
	data, err := os.ReadFile(raw)
	must(t, err)
	server := newFileServer(t, data)
	requireEntries(t, source.DiskImage{Download: server.download(data), CacheDir: t.TempDir()}, want)
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
	_, err := source.Archive{Download: server.download([]byte("x")), CacheDir: t.TempDir()}.Open(ctx, nil)
	if !errors.Is(err, stop) || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v, want the cause of the cancellation", time.Since(began), err)
	}
}

// A reader that stops leaves no writer behind.
func TestAStreamThatIsNotReadToItsEndIsClosed(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte(noise(4<<20)), 0o600))
	for name, src := range map[string]source.Source{
		"directory": source.Directory{Path: dir},
		"image":     &source.OCI{Layout: layoutOf(t, map[string]v1.Image{"it": imageOf(t, []item{fileItem("a", noise(4<<20))})})},
	} {
		stream, err := src.Open(t.Context(), nil)
		must(t, err)
		_, err = stream.Read(make([]byte, 1))
		must(t, err)
		if err := stream.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package source

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Archive is a root file system in a tar file: plain, or packed with gzip, zstd, xz or bzip2. What it is shows in its
// first bytes; its name does not matter.
type Archive struct {
	// Path of the file.
	Path string
	// Download brings the file, instead of Path; nil if there is none.
	Download *Download
	// CacheDir is a directory in which digests of files are remembered and what was fetched is kept; empty: none are,
	// and nothing can be fetched.
	CacheDir string
	// Limits bound what the archive may hold; zero values mean the defaults.
	Limits Limits
}

// TarLimits are the limits of what Open yields.
func (a Archive) TarLimits() Limits { return a.Limits }

// String names the archive for a user.
func (a Archive) String() string {
	if a.Download != nil {
		return fmt.Sprintf("archive %q", a.Download)
	}
	return fmt.Sprintf("archive %q", a.Path)
}

// ReadableAtPlan is true for a file, which is there or not, and for at most 256 MiB to fetch.
func (a Archive) ReadableAtPlan() bool {
	return a.Download == nil || a.Download.readableAtPlan(a.CacheDir)
}

// Fingerprint is "archive:sha256:<64 hex>", the digest of the file's bytes. The file is read once per path, size,
// modification time and inode.
func (a Archive) Fingerprint(ctx context.Context) (_ string, err error) {
	if a.Download != nil {
		return "archive:" + a.Download.Digest.String(), nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("fingerprint %s: %w", a, err)
		}
	}()
	file, id, err := openArchive(a.Path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	digest, err := digestOnce(ctx, a.CacheDir, file, id)
	if err != nil {
		return "", err
	}
	return "archive:" + digest.String(), nil
}

// identity tells one state of a file from another without reading it.
type identity struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime_ns"`
	Inode  uint64 `json:"inode"`
	Device uint64 `json:"device"`
}

func identify(path string, info os.FileInfo) identity {
	id := identity{Path: path, Size: info.Size(), MTime: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Inode, id.Device = stat.Ino, stat.Dev
	}
	return id
}

// openArchive opens a regular file.
func openArchive(path string) (*os.File, identity, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, identity{}, err
	}
	// Not to wait for the writer of a named pipe that a user took for an archive.
	file, err := os.OpenFile(abs, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, identity{}, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("it is not a regular file (%s); give the path of a tar file", info.Mode().Type())
	}
	if err != nil {
		return nil, identity{}, errors.Join(err, file.Close())
	}
	return file, identify(abs, info), nil
}

// Open yields the tar stream. A file that is damaged, or changes while it is read, is reported by Read or Close.
func (a Archive) Open(ctx context.Context, progress Progress) (io.ReadCloser, error) {
	s, err := a.open(ctx, progress)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (a Archive) open(ctx context.Context, progress Progress) (*archiveStream, error) {
	if a.Download != nil {
		fetched := a
		path, err := a.Download.fetch(ctx, a.CacheDir, a.Limits.withDefaults().Content, told(progress, "fetching "+a.Download.String()))
		if err != nil {
			return nil, &sourceError{source: a, err: err}
		}
		fetched.Path, fetched.Download = path, nil
		return fetched.open(ctx, progress)
	}
	file, id, err := openArchive(a.Path)
	if err != nil {
		return nil, &sourceError{source: a, err: err}
	}
	s := &archiveStream{archive: a, file: file, id: id, progress: progress, step: "reading " + filepath.Base(a.Path)}
	s.in = &countingReader{ctx: ctx, r: file}
	s.unpacked, s.closeUnpacked, err = unpack(bufio.NewReaderSize(s.in, 1<<20))
	if err != nil {
		return nil, errors.Join(s.explain(err), file.Close())
	}
	return s, nil
}

// maxWindow bounds the memory in bytes that an archive can ask for to be unpacked: what zstd --long=27 needs, and twice what
// xz -9 does.
const maxWindow = 128 << 20

// zstdWindow tells an archive that asks for more than maxWindow from a damaged one.
type zstdWindow struct{ *zstd.Decoder }

func (z zstdWindow) Read(p []byte) (int, error) {
	n, err := z.Decoder.Read(p)
	// The latter is what a frame of one segment gets, whose window is all of its content.
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = fmt.Errorf("to unpack it takes a window of more than %d bytes: %w; pack it with zstd --long=27 or less", int64(maxWindow), ErrRefused)
	}
	return n, err
}

// xzWindow does so too.
type xzWindow struct{ *xz.Reader }

func newXZ(r io.Reader) (io.Reader, error) {
	z, err := xz.NewReader(r, maxWindow)
	return xzWindow{z}, xzWindowError(err)
}

func (z xzWindow) Read(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	return n, xzWindowError(err)
}

func xzWindowError(err error) error {
	if errors.Is(err, xz.ErrMemlimit) {
		return fmt.Errorf("to unpack it takes a window of more than %d bytes: %w; pack it with xz -9 or less", int64(maxWindow), ErrRefused)
	}
	return err
}

// unpack finds the form of a packed or plain tar by its first bytes.
func unpack(r *bufio.Reader) (io.Reader, func(), error) {
	head, err := r.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	nothing := func() {}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(r)
		return z, nothing, err
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		// Of concurrency 1 it has no goroutines, which would read the file behind our back.
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return zstdWindow{z}, z.Close, nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		z, err := newXZ(r)
		return z, nothing, err
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), nothing, nil
	case isTar(head):
		return r, nothing, nil
	default:
		return nil, nil, fmt.Errorf("it is no tar file, nor one packed with gzip, zstd, xz or bzip2: %w", ErrCorrupt)
	}
}

// isTar reports whether a first block is a tar header, of whatever age, by its checksum: the sum of all bytes, those of
// the sum itself taken for spaces, which some have added up as signed ones (tar(5) of libarchive).
func isTar(block []byte) bool {
	if len(block) != 512 {
		return false
	}
	want, err := strconv.ParseInt(strings.Trim(string(block[148:156]), " \x00"), 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for i, b := range block {
		if i >= 148 && i < 156 {
			b = ' '
		}
		unsigned += int64(b)
		signed += int64(int8(b))
	}
	// A block of zeros is the end of an archive, of one without entries.
	return want != 0 && (want == unsigned || want == signed)
}

// archiveStream is the tar stream of an archive.
type archiveStream struct {
	archive       Archive
	file          *os.File
	id            identity
	in            *countingReader
	unpacked      io.Reader
	closeUnpacked func()
	progress      Progress
	step          string
	reported      int64
}

func (s *archiveStream) Read(p []byte) (int, error) {
	n, err := s.unpacked.Read(p)
	if s.progress != nil && (s.in.n-s.reported >= 1<<20 || errors.Is(err, io.EOF)) {
		s.reported = s.in.n
		s.progress(s.step, s.in.n, s.id.Size)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = s.explain(err)
	}
	return n, err
}

// explain says where in which file reading failed.
func (s *archiveStream) explain(err error) error {
	if s.in.ctx.Err() != nil {
		return &sourceError{source: s.archive, err: context.Cause(s.in.ctx)}
	}
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrRefused) {
		var path *os.PathError
		if errors.As(err, &path) {
			return &sourceError{source: s.archive, err: err}
		}
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	// The unpacker reads ahead, so that the place is somewhat before what was read.
	return &sourceError{source: s.archive, err: fmt.Errorf("before byte %d of %d: %w", s.in.n, s.id.Size, err)}
}

// Close ends reading, and reports if the file is not what it was at Open.
func (s *archiveStream) Close() error {
	s.closeUnpacked()
	info, err := s.file.Stat()
	if err == nil && identify(s.id.Path, info) != s.id {
		err = errors.New("it changed while it was read: try again when it is complete")
	}
	if err != nil {
		err = &sourceError{source: s.archive, err: err}
	}
	return errors.Join(err, s.file.Close())
}

// digestOf reads a file to its end.
func digestOf(ctx context.Context, file io.Reader) (tree.Digest, error) {
	hash := newHash()
	if _, err := io.Copy(hash, &countingReader{ctx: ctx, r: file}); err != nil {
		return tree.Digest{}, err
	}
	return sumOf(hash), nil
}

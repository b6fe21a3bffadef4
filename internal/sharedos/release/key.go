package release

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	keyBlock   = "PRIVATE KEY"
	maxKeyFile = 16 << 10
)

// ErrKeyMode means that not only the owner of the operator key's file may read it.
var ErrKeyMode = errors.New("others may read the operator key")

// ErrKey means that a file is no operator key, or cannot be read or made as one.
var ErrKey = errors.New("the operator key cannot be used")

// ErrKeyLost means that there is no operator key, and that one has signed something before. It matches ErrKey.
var ErrKeyLost = fmt.Errorf("the operator key is missing: %w", ErrKey)

// HasKey reports whether there is a file for the operator key, whatever is in it.
func HasKey(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for operator key %s: %w: %w", path, ErrKey, err)
	}
	return true, nil
}

// LoadOrCreateKey reads the operator key, an Ed25519 key in PKCS#8 PEM. If there is none, it creates one with mode
// 0600, in a directory of mode 0700. Processes that do so at the same time all get the same key. LoadOrCreateKey
// returns ErrKeyMode if other users may read the file, because they may know the key already. All errors match ErrKey.
func LoadOrCreateKey(path string) (ed25519.PrivateKey, error) {
	key, err := loadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("%w: make operator key %s: %w", ErrKey, path, err)
		}
		key, err = loadKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key, nil
}

func loadKey(path string) (_ ed25519.PrivateKey, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read operator key: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read operator key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("operator key %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("operator key %s has mode %#o: %w; if it was never known to others, run: chmod 600 %s",
			path, mode, ErrKeyMode, path)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read operator key %s: %w", path, err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("operator key %s holds no PEM block %q (PKCS#8)", path, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("operator key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("operator key %s is a %T, not an Ed25519 key", path, parsed)
	}
	return key, nil
}

// createKey writes a new key to a temporary file and links the complete file to path. It returns fs.ErrExist if another
// process was faster.
func createKey(path string) (err error) {
	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// CreateTemp opens with O_EXCL and mode 0600.
	file, err := os.CreateTemp(directory, ".operator-key-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	err = pem.Encode(file, &pem.Block{Type: keyBlock, Bytes: encoded})
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil {
		return err
	}
	return syncDirectory(directory)
}

// syncDirectory makes new names in a directory durable.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

package bootimage

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
)

// The directory always contains a file, so this package compiles before `make agent`.
//
//go:embed agent
var embedded embed.FS

// ErrNoAgent means that this program was built without the guest agent.
var ErrNoAgent = errors.New("built without the guest agent: run `make agent` and build again")

// Agent returns the guest agent's binary, or ErrNoAgent if this program was built without it.
func Agent() ([]byte, error) {
	binary, err := embedded.ReadFile("agent/agent-linux-" + runtime.GOARCH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoAgent
	}
	if err != nil {
		return nil, fmt.Errorf("read the embedded agent: %w", err)
	}
	return binary, nil
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// stream merges what several "go test -json" commands print. Whole lines are written at a time.
type stream struct {
	mu     sync.Mutex
	out    io.Writer
	events *summary
}

// run runs a command and copies what it prints. It returns the command's exit code.
func (s *stream) run(ctx context.Context, arguments []string) (int, error) {
	cmd := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	output, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start %s: %w", arguments[0], err)
	}
	err = s.copy(output)
	waited := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(waited, &exit) {
		return max(exit.ExitCode(), 1), err
	}
	return 0, errors.Join(err, waited)
}

// copy copies lines until the end.
func (s *stream) copy(from io.Reader) error {
	for lines := bufio.NewReaderSize(from, 1<<20); ; {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if err := s.write(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the tests' events: %w", err)
		}
	}
}

func (s *stream) write(line []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events.add(line)
	if _, err := s.out.Write(line); err != nil {
		return fmt.Errorf("write the tests' events: %w", err)
	}
	return nil
}

// Command guest is the benchmark's program in guests that are patched. It is linked statically, so that it does not
// depend on the operating system that changes.
//
//	guest serve PORT          greets every connection with one line
//	guest read LIST OUT       opens the files named in LIST, again and again, until SIGTERM; then writes to OUT/<pid>
//	                          how many opens there were, how many failed, and the first failure, as JSON
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
)

// Opens is the result of a reader.
type Opens struct {
	Opens  int64  `json:"opens"`
	Failed int64  `json:"failed"`
	First  string `json:"first,omitempty"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 2 && arguments[0] == "serve":
		return serve(arguments[1])
	case len(arguments) == 3 && arguments[0] == "read":
		return read(arguments[1], arguments[2])
	default:
		return errors.New("use: guest serve PORT | guest read LIST OUT")
	}
}

func serve(port string) error {
	listener, err := net.Listen("tcp", net.JoinHostPort("", port))
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("here\n"))
		// It does not matter if the client has disconnected.
		_ = errors.Join(err, conn.Close())
	}
}

func read(list, out string) error {
	paths, err := readList(list)
	if err != nil {
		return err
	}
	var stopped atomic.Bool
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		stopped.Store(true)
	}()
	seen := open(paths, &stopped)
	text, err := json.Marshal(seen)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, strconv.Itoa(os.Getpid())), text, 0o600)
}

// open opens paths in turn until it is stopped.
func open(paths []string, stopped *atomic.Bool) Opens {
	var seen Opens
	for {
		for _, path := range paths {
			if stopped.Load() {
				return seen
			}
			seen.Opens++
			fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
			if err == nil {
				err = syscall.Close(fd)
			}
			if err == nil || errors.Is(err, syscall.EINTR) {
				continue
			}
			if seen.Failed++; seen.First == "" {
				seen.First = path + ": " + err.Error()
			}
		}
	}
}

func readList(name string) ([]string, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	var paths []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		paths = append(paths, lines.Text())
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s names no file", name)
	}
	return paths, nil
}

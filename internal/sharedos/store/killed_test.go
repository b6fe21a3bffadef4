package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// uploader tells this test binary to be a process that uploads a layer: the URI, the pool and the seed of the layer.
const uploader = "SHAREDOS_TEST_UPLOAD"

func TestMain(m *testing.M) {
	if told := os.Getenv(uploader); told != "" {
		if err := upload(told); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func upload(told string) error {
	var uri, pool string
	var seed byte
	if _, err := fmt.Sscan(told, &uri, &pool, &seed); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := connect(ctx, uri, store.Config{Pool: pool})
	if err != nil {
		return err
	}
	layer, data := largeLayer(seed)
	fmt.Println("uploading")
	_, err = s.PutLayer(ctx, layer, bytes.NewReader(data), nil)
	return errors.Join(err, s.Close())
}

// uploading starts a process that uploads a layer to the pool, and returns when it begins.
func (d *disturbed) uploading(seed byte) *exec.Cmd {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", uploader, d.uri, d.config.Pool, seed))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	must(d.t, err)
	must(d.t, cmd.Start())
	line := make([]byte, 16)
	if n, err := out.Read(line); err != nil || string(line[:n]) != "uploading\n" {
		d.t.Fatalf("an uploading process says %q: %v, %v: %s", line[:n], err, cmd.Wait(), complaint.String())
	}
	return cmd
}

// A libvirtd whose client goes in the middle of a stream locks up, for every client of the host.
func TestAProcessThatIsKilledWhileItUploadsLeavesAPoolThatWorks(t *testing.T) {
	d := disturb(t)
	layer, data := largeLayer(7)
	for i := range 40 {
		cmd := d.uploading(7)
		time.Sleep(time.Duration(rand.Int64N(int64(40 * time.Millisecond))))
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		d.requireAbsentOrComplete(layer, data)
		if i%8 == 7 {
			d.requireUploadable(layer, data)
		}
	}
}

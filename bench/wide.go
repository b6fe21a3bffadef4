package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing/fstest"
	"time"

	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// wideVMs is the number of VMs that have every group of attributes.
const wideVMs = 100

// wideVM is what such a VM has.
const wideVM = `
resource "sharedos_vm" "many" {
  count               = %d
  name                = "many-${count.index}"
  base                = sharedos_base.small.release
  hostname            = "many-${count.index}.example.com"
  vcpus               = 1
  max_vcpus           = 2
  memory              = "512MiB"
  max_memory          = "1GiB"
  disk                = { size = "4GiB" }
  disks               = { data = { size = "20GiB", file_system = "ext4", mount_point = "/srv/data" } }
  interfaces          = { lan = { bridge = "br0", mtu = 1400 }, back = { bridge = "br0", link = "down" } }
  ssh_authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGaspoi0zQsKbJPm/DYq2YQhL6dsFWrIZb+rawHtG5ei"]
  title               = "one of many"
  description         = "a VM of the benchmark"
  autostart           = true
  deletion_protection = true
  time_zone           = "Europe/Berlin"
  locale              = "C.UTF-8"
  sysctl              = { "net.ipv4.ip_forward" = "1" }
  files               = { "/etc/motd" = { content = "hello\n" }, "/etc/acme.conf" = { content = "a = 1\n", mode = "0640" } }
  users               = { alice = { groups = ["adm"], sudo = true } }
  units               = { "acme.service" = { content = "[Service]\nExecStart=/usr/bin/sleep infinity\n", enabled = false } }
  ready               = { units = ["ssh.service"] }
  refresh             = { max_impact = "restart", health_checks = { ssh = { unit = "ssh.service" } } }
}
`

// widePlan measures a plan with nothing to do for VMs that have every group of attributes.
func (b *bench) widePlan(ctx context.Context) (err error) {
	host, err := b.pretendWith(ctx, wideVMs, func(archive string) (fs.FS, error) {
		text := manyVMsText(archive, 0)
		return fstest.MapFS{"main.tf": {Data: []byte(text[:strings.Index(text, "\nresource \"sharedos_vm\"")] +
			fmt.Sprintf(wideVM, wideVMs))}}, nil
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.stop()) }()
	var took []float64
	for range turns {
		own, err := processor(unix.RUSAGE_SELF)
		if err != nil {
			return err
		}
		plan, err := host.work.Plan(ctx)
		if err != nil {
			return err
		}
		for _, change := range plan.Changes {
			if !change.Is("no-op") {
				return fmt.Errorf("the plan is not empty: it would %v %s", change.Change.Actions, change.Address)
			}
		}
		now, err := processor(unix.RUSAGE_SELF)
		if err != nil {
			return err
		}
		b.tell(fmt.Sprintf("a plan took %.1f s, and %.1f s of a processor for provider, agents and libvirt",
			plan.Took.Seconds(), (now - own).Seconds()))
		took = append(took, plan.Took.Seconds())
	}
	b.results.add(fmt.Sprintf("plan with nothing to do, %d VMs with everything set", wideVMs),
		median(took), "seconds", 0, 3)
	return b.providerStart(ctx)
}

// providerStart measures how long the built provider takes from its start until it has answered
// with its schema, which is what Terraform asks for before the first plan.
func (b *bench) providerStart(ctx context.Context) error {
	var took []float64
	for range 2*turns + 1 {
		began := time.Now()
		if err := b.askSchema(ctx); err != nil {
			return err
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
	}
	b.results.add("provider, from its start to its schema", median(took), "ms", 0, 150)
	return nil
}

// askSchema starts the provider, asks it for its schema, and ends it.
func (b *bench) askSchema(ctx context.Context) (err error) {
	command := exec.CommandContext(ctx, b.provider)
	command.Env = append(os.Environ(),
		"TF_PLUGIN_MAGIC_COOKIE=d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2",
		"PLUGIN_PROTOCOL_VERSIONS=6")
	out, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start the provider: %w", err)
	}
	defer func() {
		killed := command.Process.Kill()
		_ = command.Wait() // it was killed
		err = errors.Join(err, killed)
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("wait for the provider: %w", err)
	}
	fields := strings.Split(strings.TrimSpace(line), "|") // core version, protocol, network, address, kind
	if len(fields) < 5 || fields[2] != "unix" || fields[4] != string(plugin.ProtocolGRPC) {
		return fmt.Errorf("the provider begins with %q", line)
	}
	conn, err := grpc.NewClient("unix:"+fields[3], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64*mebibyte)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := conn.Invoke(ctx, "/tfplugin6.Provider/GetProviderSchema", &emptypb.Empty{},
		&emptypb.Empty{}); err != nil {
		return fmt.Errorf("ask the provider for its schema: %w", err)
	}
	return nil
}

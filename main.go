// Command terraform-provider-sharedos serves the Terraform provider sharedos/sharedos. With
// "report" as its first argument, it writes a report on a storage pool and its VMs instead.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider"
)

// version is set by the build.
var version = "dev"

func main() {
	provider.TuneGarbageCollection()
	if len(os.Args) > 1 && os.Args[1] == "report" {
		os.Exit(reportCommand(os.Args[2:], os.Stdout, os.Stderr, gatherFrom))
	}
	debug := flag.Bool("debug", false, "serve for a debugger: print TF_REATTACH_PROVIDERS and keep running")
	flag.Parse()
	if err := serve(*debug); err != nil {
		log.Fatal(err)
	}
}

func serve(debug bool) (err error) {
	sharedos := provider.New(version, open)
	defer func() { err = errors.Join(err, sharedos.Close()) }()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	served := make(chan struct{})
	defer close(served)
	go func() {
		select {
		case <-interrupts:
			sharedos.Interrupt()
		case <-served:
		}
	}()
	var options []tf6server.ServeOpt
	if debug {
		options = append(options, tf6server.WithManagedDebug())
	} else {
		go endWithTerraform(sharedos, os.Getppid, time.Second, func() { os.Exit(1) })
	}
	return tf6server.Serve(provider.Address,
		func() tfprotov6.ProviderServer { return provider.NewServer(sharedos) }, options...)
}

// endWithTerraform ends this process when Terraform, its parent, has died without ending it: nothing else would. It
// waits until the provider is idle. It does not close the provider, which would record that a state has what was made.
func endWithTerraform(sharedos *provider.Provider, parent func() int, every time.Duration, end func()) {
	terraform, idle := parent(), 0
	for idle < 2 { // a call that Terraform made last may not be counted yet
		time.Sleep(every)
		if parent() != terraform && sharedos.Idle() {
			idle++
		} else {
			idle = 0
		}
	}
	end()
}

// open connects the provider to a host.
func open(ctx context.Context, config provider.Config) (provider.Backend, error) {
	opened, err := host.Open(ctx, host.Config{
		URI: config.URI, Pool: config.Pool, PoolPath: config.PoolPath,
		OperatorKey: config.OperatorKey, Cache: config.Cache, Log: slog.New(terraformLog(os.Stderr)),
		MaxLayers: config.MaxLayers, MaxDeltaPercent: config.MaxDeltaPercent,
	})
	if err != nil {
		return nil, err
	}
	return backend{opened}, nil
}

// terraformLog writes log lines in the form that Terraform reads from its plugins: the JSON of go-hclog. TF_LOG and
// TF_LOG_PROVIDER show them.
func terraformLog(to io.Writer) slog.Handler {
	return slog.NewJSONHandler(to,
		&slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				return slog.String("@timestamp", a.Value.Time().Format("2006-01-02T15:04:05.000000Z07:00"))
			case slog.LevelKey:
				return slog.String("@level", strings.ToLower(a.Value.String()))
			case slog.MessageKey:
				return slog.String("@message", a.Value.String())
			}
			return a
		}})
}

type backend struct{ host *host.Host }

func (b backend) Publisher() publish.Interface        { return b.host.Publisher }
func (b backend) Components() publish.Interface       { return b.host.Publisher.Components() }
func (b backend) VMs() vm.Interface                   { return b.host.Fleet }
func (b backend) CheckPool(ctx context.Context) error { return b.host.CheckPool(ctx) }

func (b backend) Facts(ctx context.Context) (host.Facts, error) { return b.host.Facts(ctx) }

func (b backend) Closing() bool { return b.host.Fleet.Hypervisor.Closing() }
func (b backend) Close() error  { return b.host.Close() }

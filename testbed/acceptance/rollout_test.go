package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/report"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// The service of webTar whose version is broken fails when the file breaks appears, and complains in its log.
const (
	broken    = "broken"
	breaks    = "/run/breaks"
	complaint = "web: the database has schema 7, and this program knows 6"
)

// TestAFleetOfRealGuests rolls a release out that breaks a service, and a mended one, over two VMs.
// It provisions both over vsock, reboots one, and reads the report about both.
func TestAFleetOfRealGuests(t *testing.T) {
	w := newWorldOf(t, "rollout")
	key, err := guest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	canary, other := w.bed.Name("web-a"), w.bed.Name("web-b")
	w.work.Variables = map[string]any{"archive": webTar(t, "1"), "vms": []string{canary, other},
		"public_key": key.Authorized}
	if _, err := w.bed.TakeSlots(t.Context(), 2, 6*time.Minute); err != nil {
		t.Fatal(err)
	}
	w.mustApply(t)
	old := w.release(t)
	before := map[string]*agentapi.StatusResponse{canary: w.status(t, canary), other: w.status(t, other)}

	w.haltsAtTheCanary(t, key, canary, other, before)

	w.work.Variables["archive"] = webTar(t, "2")
	w.mustApply(t)
	mended := w.release(t)
	for name, was := range before {
		now := w.status(t, name)
		if now.GetStack().GetBase() != mended.String() || mended == old || now.GetBootId() != was.GetBootId() {
			t.Errorf("%s runs %s, and the mended release is %s", name, now.GetStack().GetBase(), mended)
		}
	}
	w.mustBeSettled(t)

	w.provisionsOverVSock(t, key, canary, other)
	w.rebootsByAnAction(t, canary, before[canary])
	w.reportTellsOf(t, canary, other)
}

// webTar returns the lean Debian 13 with web.service, whose program differs by version. The guest
// has no network and no other service, and systemd has sshd listen on the vsock.
func webTar(t *testing.T, version string) string {
	t.Helper()
	edits := slices.DeleteFunc(guest.Lean(), func(e guest.Edit) bool {
		text := e.String()
		return strings.Contains(text, "systemd-ssh-generator") || strings.Contains(text, "user-mode-network")
	})
	edits = append(edits,
		guest.Link("etc/systemd/system/nginx.service", "/dev/null"),
		guest.Link("etc/systemd/system/ssh.service", "/dev/null"),
		guest.Write("usr/lib/systemd/system/web.service", 0o644, "[Service]\nExecStart=/usr/bin/web infinity\n"),
		guest.Link("etc/systemd/system/multi-user.target.wants/web.service", "/usr/lib/systemd/system/web.service"),
	)
	program := guest.Copy("usr/bin/web", "usr/bin/sleep", version)
	if version == broken {
		program = guest.Write("usr/bin/web", 0o755,
			"#!/bin/sh\nwhile [ ! -e "+breaks+" ]; do sleep 1; done\necho '"+complaint+"' >&2\nexit 1\n")
	}
	return editedTar(t, debianTar(t, guest.Plain), append(edits, program))
}

// haltsAtTheCanary rolls out a release whose service fails after the refresh, while the wave has to
// stay healthy. The canary gets its old stack back, and the other VM is never touched.
func (w *world) haltsAtTheCanary(t *testing.T, key *guest.Key, canary, other string,
	before map[string]*agentapi.StatusResponse) {
	t.Helper()
	w.work.Variables["archive"], w.work.Variables["soak"] = webTar(t, broken), "1h"
	var once sync.Once
	breaking := make(chan error, 1)
	w.onStep = func(step string) {
		if strings.Contains(step, "have to stay healthy") {
			once.Do(func() { go func() { breaking <- w.runs(t.Context(), key, canary, "touch "+breaks) }() })
		}
	}
	err := w.apply(t)
	w.onStep = func(string) {}
	delete(w.work.Variables, "soak")
	select {
	case failed := <-breaking:
		if failed != nil {
			t.Fatal(failed)
		}
	default:
		t.Fatalf("no wave had to stay healthy: %v", err)
	}
	if err == nil {
		t.Fatal("a release whose service fails was rolled out")
	}
	for _, text := range []string{canary, "a health check fails: web:", complaint, "1 were never touched"} {
		if !guest.Says(err, text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
	w.mustRun(t, canary, before[canary])
	w.mustRun(t, other, before[other])
	if last := w.status(t, canary).GetLast(); !last.GetCommitted() ||
		last.GetFrom().GetBase() != w.release(t).String() {
		t.Errorf("the canary was not taken back by a refresh: %v", last)
	}
	if failing, err := w.host.Fleet.Health(t.Context(), canary); err != nil || len(failing) > 0 {
		t.Errorf("after it was taken back, the canary fails: %v, %v", failing, err)
	}
	if last := w.status(t, other).GetLast(); last != nil {
		t.Errorf("the other VM was refreshed: %v", last)
	}
}

// runs runs a command in a VM over its vsock.
func (w *world) runs(ctx context.Context, key *guest.Key, name, command string) error {
	domain, _, err := w.host.Fleet.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return err
	}
	forward, err := transport.NewForward(func(ctx context.Context) (net.Conn,
		error) {
		return w.host.Fleet.Dial(ctx, domain.UUID, 22)
	}, func(error) {})
	if err != nil {
		return err
	}
	_, err = key.Run(ctx, fmt.Sprintf("127.0.0.1:%d", forward.Port()), command, nil)
	return errors.Join(err, forward.Close())
}

// provisionsOverVSock has Terraform's provisioners run commands in VMs without a network.
func (w *world) provisionsOverVSock(t *testing.T, key *guest.Key, names ...string) {
	t.Helper()
	dir := t.TempDir()
	private := filepath.Join(dir, "key")
	if err := key.WriteFile(private); err != nil {
		t.Fatal(err)
	}
	w.work.Variables["ssh"] = map[string]any{"private_key": private, "answers": dir}
	w.mustApply(t)
	for _, name := range names {
		said, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		domain, _, err := w.host.Fleet.Hypervisor.Lookup(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(said)) != domain.UUID {
			t.Errorf("VM %s with UUID %s answers %q", name, domain.UUID, said)
		}
	}
}

// rebootsByAnAction invokes sharedos_reboot over the provider protocol, since actions need a later
// Terraform than the tests have.
func (w *world) rebootsByAnAction(t *testing.T, name string, before *agentapi.StatusResponse) {
	t.Helper()
	running := w.status(t, name).GetStack().GetBase()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	w.invoke(ctx, t, "sharedos_reboot", map[string]string{"vm": name})
	now := w.status(t, name)
	if now.GetBootId() == before.GetBootId() || now.GetStack().GetBase() != running {
		t.Errorf("after the reboot it runs %s instead of %s, boot %s", now.GetStack().GetBase(),
			running, now.GetBootId())
	}
}

// served is a provider's backend on the test's own connection.
type served struct{ host *host.Host }

func (s served) Publisher() publish.Interface                  { return s.host.Publisher }
func (s served) Components() publish.Interface                 { return s.host.Publisher.Components() }
func (s served) VMs() vm.Interface                             { return s.host.Fleet }
func (s served) CheckPool(ctx context.Context) error           { return s.host.CheckPool(ctx) }
func (s served) Facts(ctx context.Context) (host.Facts, error) { return s.host.Facts(ctx) }
func (s served) Closing() bool                                 { return s.host.Fleet.Hypervisor.Closing() }
func (served) Close() error                                    { return nil }
func (w *world) open(context.Context, provider.Config) (provider.Backend, error) {
	return served{w.host}, nil
}

// invoke configures a provider, and has it invoke an action with attributes that are texts.
func (w *world) invoke(ctx context.Context, t *testing.T, action string, attributes map[string]string) {
	t.Helper()
	sharedos := provider.New("test", w.open)
	server := provider.NewServer(sharedos)
	schemas, err := server.GetProviderSchema(ctx, &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	object := func(of tftypes.Type) *tfprotov6.DynamicValue {
		values := map[string]tftypes.Value{}
		for name, attribute := range of.(tftypes.Object).AttributeTypes {
			values[name] = tftypes.NewValue(attribute, nil)
			if text, ok := attributes[name]; ok {
				values[name] = tftypes.NewValue(attribute, text)
			}
		}
		made, err := tfprotov6.NewDynamicValue(of, tftypes.NewValue(of, values))
		if err != nil {
			t.Fatal(err)
		}
		return &made
	}
	configured, err := server.ConfigureProvider(ctx,
		&tfprotov6.ConfigureProviderRequest{Config: object(schemas.Provider.ValueType())})
	if err != nil {
		t.Fatal(err)
	}
	failIf(t, action, configured.Diagnostics)
	stream, err := server.(tfprotov6.ActionServer).InvokeAction(ctx, &tfprotov6.InvokeActionRequest{
		ActionType: action, Config: object(schemas.ActionSchemas[action].Schema.ValueType()),
	})
	if err != nil {
		t.Fatal(err)
	}
	completed := false
	for event := range stream.Events {
		switch event := event.Type.(type) {
		case tfprotov6.ProgressInvokeActionEventType:
			t.Log(event.Message)
		case tfprotov6.CompletedInvokeActionEventType:
			completed = true
			failIf(t, action, event.Diagnostics)
		}
	}
	if !completed {
		t.Errorf("%s has not completed", action)
	}
	if err := sharedos.Close(); err != nil {
		t.Error(err)
	}
}

// failIf fails if one of the diagnostics is an error.
func failIf(t *testing.T, what string, diagnostics []*tfprotov6.Diagnostic) {
	t.Helper()
	for _, d := range diagnostics {
		if d.Severity == tfprotov6.DiagnosticSeverityError {
			t.Errorf("%s: %s: %s", what, d.Summary, d.Detail)
		}
	}
}

// reportTellsOf makes the report in both forms with the provider's command.
func (w *world) reportTellsOf(t *testing.T, canary, other string) {
	t.Helper()
	run := func(args ...string) []byte {
		command := exec.CommandContext(t.Context(), filepath.Join("..", "..", "bin", "terraform-provider-sharedos"),
			append([]string{"report"}, args...)...)
		command.Env = append(os.Environ(), w.env...)
		command.Stderr = os.Stderr
		text, err := command.Output()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var told report.Report
	if err := json.Unmarshal(run("--json"), &told); err != nil {
		t.Fatal(err)
	}
	now := w.release(t).String()
	if len(told.Incomplete) > 0 || len(told.VMs) != 2 || told.VMs[0].Name != canary || told.VMs[1].Name != other {
		t.Fatalf("the report has %d VMs, and lacks %v", len(told.VMs), told.Incomplete)
	}
	for _, one := range told.VMs {
		if one.Agent != report.Answers || one.State != "running" || one.System != "running" ||
			one.Base.Release != now ||
			len(one.Waits)+len(one.Faults)+len(one.Held) > 0 {
			t.Errorf("the report says of %s: %+v", one.Name, one)
		}
	}
	last := told.VMs[1].LastRefresh
	if last == nil || last.Result != "committed" || last.To.Release != now || last.Level != "restart" ||
		!slices.ContainsFunc(last.Interrupted, func(i report.Interruption) bool { return i.Unit == "web.service" }) {
		t.Errorf("the report says of the last refresh of %s: %+v", other, last)
	}
	for _, layer := range told.Layers {
		if !layer.InPool || slices.Contains(told.VMs[0].Layers, layer.ID) && len(layer.VMs) != 2 {
			t.Errorf("the report says of a layer: %+v", layer)
		}
	}
	page := string(run())
	for _, text := range []string{canary, other, told.VMs[0].Base.Text(), "web.service"} {
		if !strings.Contains(page, text) {
			t.Errorf("the page does not say %q", text)
		}
	}
}

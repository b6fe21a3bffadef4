package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/provider"
)

func TestTheProviderEndsWithTerraform(t *testing.T) {
	var parent atomic.Int64
	parent.Store(4711)
	ended := make(chan struct{})
	sharedos := provider.New("test",
		func(context.Context, provider.Config) (provider.Backend, error) { return nil, errors.New("not opened") })
	go endWithTerraform(sharedos, func() int { return int(parent.Load()) }, time.Millisecond, func() { close(ended) })
	select {
	case <-ended:
		t.Fatal("it ended although Terraform runs")
	case <-time.After(50 * time.Millisecond):
	}
	parent.Store(1)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it did not end although Terraform did")
	}
}

package storetest_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
)

func TestFakeKeepsTheContract(t *testing.T) {
	storetest.Contract(t, func(t *testing.T) store.Store { return storetest.New(t) })
}

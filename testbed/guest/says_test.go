package guest

import (
	"errors"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
)

func TestAnErrorSaysWhatAGuestSaidOverLines(t *testing.T) {
	const id = "sha256:d4ad890b441f09d5eae722008336110b9b6f23506d80cbd26c0c47ce8c1a1713"
	for indent := range 120 {
		err := errors.New("the refresh failed:" +
			plain.Guest(strings.Repeat("x", indent)+" the database has another format: layer "+id))
		if !Says(err, "the database has another format") || !Says(err, id) || !Says(err, "the refresh failed") {
			t.Fatalf("%d: %v", indent, err)
		}
		if Says(err, "the database has no format") {
			t.Fatal("it says something else, too")
		}
	}
	if Says(nil, "") {
		t.Error("no error says something")
	}
}

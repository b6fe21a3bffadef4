package crashtest

import (
	"os"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

func TestMain(m *testing.M) { os.Exit(matrix.Run(m)) }

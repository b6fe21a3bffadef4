// Command matrix prints the fault matrix as a page of the documentation.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

func main() {
	if err := show(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

// show prints the page.
func show(arguments []string) error {
	if len(arguments) != 2 || arguments[0] != "docs" {
		return errors.New("usage: matrix docs ROOT")
	}
	page, err := matrix.Page(arguments[1])
	if err != nil {
		return err
	}
	_, err = os.Stdout.WriteString(page)
	return err
}

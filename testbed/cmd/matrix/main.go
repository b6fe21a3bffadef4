// Command matrix prints the fault matrix, either as a table of the results of a test run or as a page of the documentation.
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

// show prints to standard output in one write, since other programs print there at the same time.
func show(arguments []string) error {
	if len(arguments) != 2 {
		return errors.New("usage: matrix results DIRECTORY | docs ROOT")
	}
	switch arguments[0] {
	case "results":
		results, err := matrix.ReadResults(arguments[1])
		if err != nil {
			return err
		}
		_, err = os.Stdout.WriteString(matrix.Table(results))
		return err
	case "docs":
		page, err := matrix.Page(arguments[1])
		if err != nil {
			return err
		}
		_, err = os.Stdout.WriteString(page)
		return err
	default:
		return fmt.Errorf("unknown command %q", arguments[0])
	}
}

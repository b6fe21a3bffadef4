//go:build !race

package source_test

import "testing"

func withoutRaceDetector(*testing.T) bool { return false }

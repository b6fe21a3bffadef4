//go:build race

package source_test

// raceFactor is how many times as much memory a process takes under the race detector, about.
const raceFactor = 3

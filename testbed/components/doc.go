// Package components tests on a real guest what happens when components come to a running VM and go from it, with real
// packages. Its tests share one VM, and each begins with what the one before it has left.
package components

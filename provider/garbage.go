package provider

import (
	"runtime"
	"runtime/debug"
)

const (
	// gcPercent is GOGC: how much the heap may grow, in percent, before the next garbage collection. A plan holds trees
	// of hundreds of thousands of files in memory, on a host whose memory is meant for VMs.
	gcPercent = 50
	// ballastBytes count as part of the heap, and are never written, so that the kernel gives no memory for them. A
	// process with a small heap thus collects each gcPercent of them, in bytes, and not each few megabytes: the plan of
	// many VMs makes little that stays and much that does not, and took a quarter of its time for collecting that.
	ballastBytes = 128 << 20
)

var ballast []byte

// TuneGarbageCollection sets how often this process collects garbage.
func TuneGarbageCollection() {
	debug.SetGCPercent(gcPercent)
	ballast = make([]byte, ballastBytes)
	runtime.KeepAlive(ballast) // else nothing reads it
}

package provider

import "time"

// Defaults of the timeouts attribute. Each bounds one operation as a whole.
const (
	// A base may have to be downloaded and built.
	baseWriteTimeout = time.Hour
	// A VM boots under emulation in under a minute; ten leave room for a slow host.
	vmWriteTimeout = 10 * time.Minute
	deleteTimeout  = 10 * time.Minute
	readTimeout    = 2 * time.Minute
	// lookTimeout bounds the look at what an operation left behind that failed or was interrupted.
	lookTimeout = 20 * time.Second
)

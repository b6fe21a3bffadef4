package transport

// SilentTimeout is how long a client may send nothing.
const SilentTimeout = silentTimeout

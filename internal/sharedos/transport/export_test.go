package transport

// HandshakeTimeout is how long a client may take for a handshake.
const HandshakeTimeout = handshakeTimeout

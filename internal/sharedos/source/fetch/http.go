package fetch

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// NewTransport returns an HTTP transport that bounds every wait, except for the time between two bytes of a body.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       15 * time.Second,
		ForceAttemptHTTP2:     true,
		// Digests are those of the bytes as the server stores them.
		DisableCompression: true,
	}
}

// NoDowngrade is a policy for http.Client.CheckRedirect: it follows up to ten redirects, but none from https to another
// scheme.
func NoDowngrade(request *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= 10:
		return errors.New("more than ten redirects")
	case via[len(via)-1].URL.Scheme == "https" && request.URL.Scheme != "https":
		return fmt.Errorf("redirected from https to %s", request.URL.Scheme)
	default:
		return nil
	}
}

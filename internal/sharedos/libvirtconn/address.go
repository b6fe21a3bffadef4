package libvirtconn

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Address is the address of a libvirt.
type Address struct {
	// URI as the user gave it, or the default.
	URI string
	// Driver is the URI that the daemon opens: "qemu:///system".
	Driver string
	// Sockets are the paths of the sockets that are tried, in order.
	Sockets []string
	// System is true for the system's libvirt at its default sockets. It is started if it does not run.
	System bool
}

// ParseAddress parses a libvirt connection URI (https://libvirt.org/uri.html). The default is
// $LIBVIRT_DEFAULT_URI, or else qemu:///system.
func ParseAddress(uri string, getenv func(string) string) (Address, error) {
	if uri == "" {
		uri = getenv("LIBVIRT_DEFAULT_URI")
	}
	if uri == "" {
		uri = "qemu:///system"
	}
	parsed, err := url.Parse(uri)
	if err != nil {
		return Address{}, fmt.Errorf("libvirt URI %q: %w", uri, err)
	}
	driver, transport, _ := strings.Cut(parsed.Scheme, "+")
	if driver != "qemu" {
		return Address{}, fmt.Errorf(
			"libvirt URI %q: only the qemu driver can run VMs of a shared OS; use qemu:///system or qemu:///session",
			uri)
	}
	if parsed.Host != "" || (transport != "" && transport != "unix") {
		return Address{}, fmt.Errorf(
			"libvirt URI %q: remote hosts are not supported yet; run on the host itself with qemu:///system", uri)
	}
	address := Address{URI: uri, Driver: "qemu://" + parsed.Path}
	if parsed.Path != "/system" && parsed.Path != "/session" {
		return Address{}, fmt.Errorf("libvirt URI %q: its path has to be /system or /session", uri)
	}
	if socket := parsed.Query().Get("socket"); socket != "" {
		if !filepath.IsAbs(socket) {
			return Address{}, fmt.Errorf("libvirt URI %q: socket=%s is not an absolute path", uri, socket)
		}
		address.Sockets = []string{socket}
		return address, nil
	}
	directories := []string{"/run/libvirt"}
	if parsed.Path == "/session" {
		directories = sessionDirectories(getenv)
		if len(directories) == 0 {
			return Address{}, fmt.Errorf(
				"libvirt URI %q: neither XDG_RUNTIME_DIR nor HOME is set; name the socket with ?socket=/path", uri)
		}
	}
	// The monolithic daemon, or the modular one for QEMU, which forwards storage calls.
	for _, directory := range directories {
		address.Sockets = append(address.Sockets, filepath.Join(directory, "libvirt-sock"),
			filepath.Join(directory, "virtqemud-sock"))
	}
	address.System = parsed.Path == "/system"
	return address, nil
}

func sessionDirectories(getenv func(string) string) []string {
	var directories []string
	if runtime := getenv("XDG_RUNTIME_DIR"); runtime != "" {
		directories = append(directories, filepath.Join(runtime, "libvirt"))
	}
	if cache := getenv("XDG_CACHE_HOME"); cache != "" {
		directories = append(directories, filepath.Join(cache, "libvirt"))
	} else if home := getenv("HOME"); home != "" {
		directories = append(directories, filepath.Join(home, ".cache", "libvirt"))
	}
	return directories
}

func environment(name string) string { return os.Getenv(name) }

package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/scan"
)

// maxMaps bounds the text of maps, in bytes.
const maxMaps = 32 << 20

// Device is the number of a mounted file system.
type Device struct{ Major, Minor uint32 }

// DeviceOf splits a device number as stat(2) returns it.
func DeviceOf(number uint64) Device {
	return Device{Major: unix.Major(number), Minor: unix.Minor(number)}
}

// Number is the device number as stat(2) returns it.
func (d Device) Number() uint64 { return unix.Mkdev(d.Major, d.Minor) }

// String is "major:minor", as mountinfo has it.
func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// ParseDevice reads "major:minor", in decimal or in the hexadecimal of maps.
func ParseDevice(text string, base int) (Device, error) {
	high, low, found := strings.Cut(text, ":")
	major, errMajor := strconv.ParseUint(high, base, 32)
	minor, errMinor := strconv.ParseUint(low, base, 32)
	if !found || errMajor != nil || errMinor != nil {
		return Device{}, fmt.Errorf("%q is not a device number", text)
	}
	return Device{Major: uint32(major), Minor: uint32(minor)}, nil
}

// Mapping is a mapped file (proc_pid_maps(5)).
type Mapping struct {
	// Path as the kernel shows it, with " (deleted)" behind it if the file was unlinked, and newlines as "\012".
	Path []byte
	// line is the part of the line before the path.
	line []byte
}

// field returns one of the fields "address perms offset dev inode", nil if there is none. An assessment asks for
// thousands, so it allocates nothing.
func (m Mapping) field(number int) []byte {
	rest := m.line
	for {
		for len(rest) > 0 && rest[0] == ' ' {
			rest = rest[1:]
		}
		end := scan.IndexByte(rest, ' ')
		if end < 0 {
			end = len(rest)
		}
		if number == 0 {
			return rest[:end]
		}
		number, rest = number-1, rest[end:]
	}
}

// Device is the file system of the file.
func (m Mapping) Device() (Device, error) {
	text := m.field(3)
	colon := scan.IndexByte(text, ':')
	if colon < 0 {
		return Device{}, fmt.Errorf("maps: %q is not a device number", text)
	}
	major, majorOK := hexadecimal(text[:colon])
	minor, minorOK := hexadecimal(text[colon+1:])
	if !majorOK || !minorOK {
		return Device{}, fmt.Errorf("maps: %q is not a device number", text)
	}
	return Device{Major: major, Minor: minor}, nil
}

// hexadecimal reads a number of at most 32 bits.
func hexadecimal(text []byte) (number uint32, ok bool) {
	for _, c := range text {
		digit := uint32(c)
		switch {
		case '0' <= c && c <= '9':
			digit -= '0'
		case 'a' <= c && c <= 'f':
			digit -= 'a' - 10
		default:
			return 0, false
		}
		if number >= 1<<28 {
			return 0, false
		}
		number = number<<4 | digit
	}
	return number, len(text) > 0
}

// Link is the name in the directory map_files of the link to the file: the address range without leading zeros.
func (m Mapping) Link() string {
	from, to, _ := strings.Cut(string(m.field(0)), "-")
	trim := func(address string) string {
		if address = strings.TrimLeft(address, "0"); address == "" {
			return "0"
		}
		return address
	}
	return "map_files/" + trim(from) + "-" + trim(to)
}

// Maps calls visit for each mapped file, until it returns an error: fs.SkipAll ends the walk without one. Neighbouring
// mappings of one file are visited once, as the first of them.
func (p *Process) Maps(visit func(m Mapping) error) error {
	data, err := p.read("maps", maxMaps, lastMapping)
	if err != nil {
		return err
	}
	var last []byte
	for len(data) > 0 {
		line := data
		if end := scan.IndexByte(line, '\n'); end >= 0 {
			line, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		slash := scan.IndexByte(line, '/')
		if slash < 1 || line[slash-1] != ' ' { // anonymous memory, which may have a name: "[anon:a/b]"
			continue
		}
		path := line[slash:]
		if bytes.Equal(path, last) {
			continue
		}
		last = path
		err := visit(Mapping{Path: path, line: line[:slash]})
		if errors.Is(err, fs.SkipAll) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lastMapping reports whether maps ends here. On x86 the page for vsyscall is the last mapping of every process.
func lastMapping(maps []byte) bool {
	const page, least = "\nffffffffff600000-", 80
	if len(maps) < least || maps[len(maps)-1] != '\n' {
		return false
	}
	line := bytes.LastIndexByte(maps[:len(maps)-1], '\n')
	return line >= 0 && bytes.HasPrefix(maps[line:], []byte(page))
}

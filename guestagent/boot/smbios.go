package boot

import (
	"bytes"
	"errors"
	"fmt"
)

// smbiosTable is the raw structure table as the kernel found it, readable by root only.
const smbiosTable = "/sys/firmware/dmi/tables/DMI"

// maxSMBIOSTable bounds the table in bytes. SMBIOS 2 allows 64 KiB, SMBIOS 3 more than anybody uses.
const maxSMBIOSTable = 4 << 20

// errSMBIOS means that a table violates the DMTF's DSP0134, section 6.1.
var errSMBIOS = errors.New("malformed SMBIOS table")

const (
	smbiosHeader     = 4 // type, length, handle
	smbiosOEMStrings = 11
	smbiosEnd        = 127
)

// oemStrings returns the strings of every OEM Strings structure (type 11) in a raw table, in order. It stops at
// the end-of-table structure; a table without one ends with its last byte.
func oemStrings(table []byte) ([]string, error) {
	if len(table) > maxSMBIOSTable {
		return nil, fmt.Errorf("%w: %d bytes", errSMBIOS, len(table))
	}
	var found []string
	for offset := 0; len(table)-offset >= smbiosHeader; {
		kind, length := table[offset], int(table[offset+1])
		if length < smbiosHeader {
			return nil, fmt.Errorf("%w: structure of %d bytes at offset %d", errSMBIOS, length, offset)
		}
		if len(table)-offset < length {
			return nil, fmt.Errorf("%w: structure at offset %d ends after the table", errSMBIOS, offset)
		}
		if kind == smbiosEnd {
			return found, nil
		}
		strings, size, err := stringSet(table[offset+length:])
		if err != nil {
			return nil, fmt.Errorf("%w: at offset %d", err, offset)
		}
		if kind == smbiosOEMStrings {
			found = append(found, strings...)
		}
		offset += length + size
	}
	return found, nil
}

// stringSet reads the strings that follow a structure: each ends with a NUL, the set with one more. A set
// without strings is two NULs. Size counts all bytes up to the next structure.
func stringSet(data []byte) (strings []string, size int, err error) {
	if len(data) >= 2 && data[0] == 0 && data[1] == 0 {
		return nil, 2, nil
	}
	for {
		end := bytes.IndexByte(data[size:], 0)
		switch {
		case end < 0:
			return nil, 0, fmt.Errorf("%w: string without an end", errSMBIOS)
		case end == 0 && len(strings) == 0:
			return nil, 0, fmt.Errorf("%w: string set without an end", errSMBIOS)
		case end == 0:
			return strings, size + 1, nil
		}
		strings = append(strings, string(data[size:size+end]))
		size += end + 1
	}
}

package tree

import "encoding/binary"

// RenumberACL renumbers the accounts in an access control list as the extended attributes system.posix_acl_access and
// system.posix_acl_default have it (Linux, include/uapi/linux/posix_acl_xattr.h): a header of 4 bytes, and 8 for each
// entry: tag, permissions, number.
func RenumberACL(list string, user, group func(uint32) uint32) string {
	const header, size, userTag, groupTag = 4, 8, 0x02, 0x08
	changed := []byte(list)
	for at := header; at+size <= len(changed); at += size {
		number := changed[at+4 : at+size]
		switch binary.LittleEndian.Uint16(changed[at:]) {
		case userTag:
			binary.LittleEndian.PutUint32(number, user(binary.LittleEndian.Uint32(number)))
		case groupTag:
			binary.LittleEndian.PutUint32(number, group(binary.LittleEndian.Uint32(number)))
		}
	}
	return string(changed)
}

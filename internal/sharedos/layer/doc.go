// Package layer writes layers: one immutable EROFS image with its dm-verity hash tree appended, named by the root
// digest of that hash tree. A full layer holds a whole tree. A delta holds the difference between two trees in the form
// that overlayfs merges: changed entries, whiteouts and opaque directories.
//
// An image is uncompressed, has blocks of 4096 bytes, and depends only on the tree: the same tree always yields the
// same bytes. The content of a file is in whole consecutive blocks (EROFS' plain layout), so that the kernel can map it
// directly from a virtio-pmem device (DAX). Only a file that is small enough is stored inline after its inode, always
// as a whole: the tail of a larger file never is.
//
// The package does not use the store or virtual machines, and needs neither root nor external programs.
package layer

// Package layer writes layers: one immutable EROFS image with its dm-verity hash tree appended, named by the root
// digest of that hash tree. A full layer holds a tree, a delta what must lie over one tree to make it another, in
// the form that overlayfs merges: changed entries, whiteouts, opaque directories.
//
// An image is uncompressed, in blocks of 4096 bytes, and depends on nothing but the tree: the same tree always
// yields the same bytes. The content of a file lies in whole consecutive blocks (EROFS' plain layout), so that the
// kernel can map it straight from a virtio-pmem device (DAX). Only a file so small that it fits beside its inode
// lies there as a whole; the tail of a larger file never does.
//
// The package knows no store and no virtual machine, and needs no privilege and no tool.
package layer

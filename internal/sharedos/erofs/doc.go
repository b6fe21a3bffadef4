// Package erofs writes a tree as an EROFS image: uncompressed, in blocks of 4096 bytes, as a stream of bytes that
// depends on the tree alone. (On-disk format: Linux, fs/erofs/erofs_fs.h.)
//
// An image consists of a superblock, the inodes, the blocks of directories, and the blocks of
// files. Small content is stored inline after its inode: a directory, a link target, or a file that
// fits there as a whole. All other files are in whole consecutive blocks (EROFS' plain layout),
// tail included, so that the kernel can map them directly from a device (DAX).
//
// A file with holes is stored in chunks (EROFS' chunk-based layout), and chunks of zeros take no blocks.
// The size of the chunks is the power of two with which chunks and their addresses take the least room.
//
// Files with the same content share its blocks. Names of one file (tree.Entry.Inode) share the inode, so that a hard
// link stays one. Writing an image takes about 50 bytes of memory for each entry, in addition to the tree itself.
//
// This package exists since no library kept the limits on memory and on the size of a delta (design/0010).
package erofs

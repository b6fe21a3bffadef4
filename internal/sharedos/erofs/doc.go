// Package erofs writes a tree as an EROFS image: uncompressed, in blocks of 4096 bytes, as a stream of bytes that
// depends on the tree alone. (On-disk format: Linux, fs/erofs/erofs_fs.h.)
//
// An image consists of a superblock, the inodes, the blocks of directories, and the blocks of files. Small content is
// stored inline after its inode: a directory, a link target, or a file that fits there as a whole. All other files are in
// whole consecutive blocks (EROFS' plain layout), tail included, so that the kernel can map them directly from a device
// (DAX).
//
// Files in blocks that are equal in everything except their paths share one inode. So a hard link stays one, and a file
// that several packages contain is stored once. Writing an image takes about 50 bytes of memory for each entry, in
// addition to the tree itself.
//
// This package exists since no library kept the limits on memory and on the size of a delta (design/0010).
package erofs

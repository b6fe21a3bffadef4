// Package erofs writes a tree as an EROFS image: uncompressed, in blocks of 4096 bytes, as a stream of bytes that
// depends on the tree alone. (On-disk format: Linux, fs/erofs/erofs_fs.h.)
//
// An image is a superblock, then the inodes, then the blocks of directories, then those of files. What is small lies
// beside its inode: a directory, a link target, a file that fits there as a whole. All else of a file lies in whole
// consecutive blocks (EROFS' plain layout), tail included, so that the kernel can map it straight from a device (DAX).
//
// Files in blocks that are equal in everything but their paths are one inode: a hard link stays one, and what several
// packages bring is stored once. In memory an image takes some 50 bytes for each entry beside the tree itself.
package erofs

// Package tarstream turns tar streams into trees, and trees into tar streams.
//
// Streams are not trusted: every entry is checked, and what a stream can make the reader allocate is bounded.
package tarstream

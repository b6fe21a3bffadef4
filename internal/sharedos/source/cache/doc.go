// Package cache stores what is expensive to compute or to download in a directory of the user's, between runs and for
// several processes at once. Whatever is lost from the directory is made again.
package cache

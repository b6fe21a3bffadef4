// Package services tests on a real guest what a refresh does to services: which are restarted, reloaded, left alone or
// only told of, in which order and for how long, and what becomes of those that resist. Its tests share one VM.
package services

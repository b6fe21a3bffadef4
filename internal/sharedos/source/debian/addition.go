package debian

// Addition is what packages add to an operating system that dpkg manages: apt installs them in a copy of the base, whose
// packages keep their versions.
//
// Source has the settings. If it has no suite, the suites and the archive's components are those of the base's own
// sources of apt.
type Addition struct{ Source *Source }

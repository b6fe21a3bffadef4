package debian

// KeepScript is the hook that gives apt the packages that are kept.
var KeepScript = keepScript

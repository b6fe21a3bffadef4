package release

// Limits of a stack. Host and guest both check them. The host checks them when it composes a stack, so that a plan
// shows that a stack is too large.
const (
	// MaxStackLayers is how many layers a stack may have. It is also how many layers a VM can have attached at once,
	// which during a refresh are those of two stacks.
	MaxStackLayers = 24
	// MaxComponents is how many components a stack may have.
	MaxComponents = 16
	// MaxOnDemand is how many components a VM may have on demand. The number of its stacks doubles with each of them.
	MaxOnDemand = 3
)

package release

// Limits of a stack. Host and guest both hold a stack against them; composing one checks them first, so that a plan
// tells of a stack that is too large.
const (
	// MaxStackLayers is how many layers a stack may have. It is also how many a VM can have attached at once, those of
	// the stack that it is being moved to included.
	MaxStackLayers = 24
	// MaxComponents is how many components a stack may have.
	MaxComponents = 16
)

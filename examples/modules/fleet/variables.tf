variable "name" {
  description = "Name of the base, and beginning of the names of the VMs."
  type        = string
}

variable "suite" {
  description = "Suite of Debian."
  type        = string
  default     = "trixie"
}

variable "additional_suites" {
  description = "Further suites, such as [\"trixie-security\"]; null for updates and security."
  type        = list(string)
  default     = null
}

variable "packages" {
  description = "Packages of the base."
  type        = list(string)
  default = [
    "linux-image-cloud-amd64", "systemd-sysv", "dbus", "kmod", "e2fsprogs", "iproute2", "openssh-server",
  ]
}

variable "components" {
  description = "Packages of each component, by the name of the component."
  type        = map(list(string))
  default     = {}
}

variable "vms" {
  description = "The VMs, by the ends of their names."
  type = map(object({
    vcpus  = optional(number, 1)
    memory = optional(string, "512MiB")
    disk   = optional(string, "4GiB")
    interfaces = optional(map(object({
      user    = optional(object({ forwards = optional(map(number)) }))
      bridge  = optional(string)
      network = optional(string)
    })), {})
  }))
}

variable "canaries" {
  description = "Keys of the VMs that get a release first, in this order."
  type        = list(string)
  default     = []

  validation {
    condition     = length(setsubtract(var.canaries, keys(var.vms))) == 0
    error_message = "Each canary has to be a key of vms."
  }
}

variable "ssh_authorized_keys" {
  description = "OpenSSH public keys for root."
  type        = list(string)
  default     = []
}

variable "strategy" {
  description = "The most disruptive method that a refresh may use."
  type        = string
  default     = "live"
}

variable "max_impact" {
  description = "The largest impact that a change may have in a VM."
  type        = string
  default     = "restart"
}

variable "health_checks" {
  description = "Health checks of each VM."
  type = map(object({
    unit    = optional(string)
    http    = optional(string)
    tcp     = optional(string)
    command = optional(list(string))
    timeout = optional(string)
  }))
  default = {}
}

variable "rollout" {
  description = "How a release reaches the VMs."
  type = object({
    waves           = optional(list(string), ["1", "10%", "50%", "100%"])
    max_unavailable = optional(number, 1)
    max_failures    = optional(number, 0)
    soak            = optional(string, "5m")
    on_failure      = optional(string, "halt")
  })
  default = {}
}

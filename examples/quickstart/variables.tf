variable "additional_suites" {
  description = <<-TEXT
    Debian suites with updates. An empty list uses only the main archive, as it was released. To patch the base and
    the running VMs, apply again with ["trixie-updates", "trixie-security"].
  TEXT
  type        = list(string)
  default     = []
}

variable "ports" {
  description = "The VMs, each with the ports on the host's 127.0.0.1 that are forwarded to its ports 80 and 22."
  type        = map(object({ http = number, ssh = number }))
  default = {
    a = { http = 8081, ssh = 2201 }
    b = { http = 8082, ssh = 2202 }
  }
}

variable "ssh_authorized_keys" {
  description = "OpenSSH public keys that may log in as root."
  type        = list(string)
  default     = []
}

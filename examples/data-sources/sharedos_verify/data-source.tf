# Fails the plan if anything in the pool is damaged.
data "sharedos_verify" "pool" {
  lifecycle {
    postcondition {
      condition     = length(self.damaged) == 0
      error_message = "Damaged in the pool: ${jsonencode(self.damaged)}"
    }
  }
}

# terraform test, without a host: the provider is a mock.

mock_provider "sharedos" {
  mock_resource "sharedos_base" {
    defaults = { release = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" }
  }
  mock_resource "sharedos_component" {
    defaults = { release = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" }
  }
}

variables {
  name       = "shop"
  components = { nginx = ["nginx-light"] }
  vms        = { a = {}, b = { memory = "1GiB" }, c = {}, d = {} }
  canaries   = ["c"]
}

run "vms_are_moved_by_the_rollout_alone" {
  assert {
    condition     = alltrue([for vm in sharedos_vm.this : vm.refresh.by == "rollout"])
    error_message = "Each VM has to leave its release to the rollout."
  }
  assert {
    condition     = sharedos_rollout.this.base == sharedos_base.this.release && alltrue([for vm in sharedos_vm.this : vm.base == sharedos_base.this.release])
    error_message = "New VMs and the rollout have to have the same release."
  }
  assert {
    condition     = sharedos_rollout.this.components == tolist([sharedos_component.this["nginx"].release])
    error_message = "The rollout has to bring the components."
  }
  assert {
    condition     = sharedos_vm.this["b"].memory == "1GiB" && sharedos_vm.this["a"].memory == "512MiB"
    error_message = "Each VM has to have its own size."
  }
}

run "canaries_come_first" {
  assert {
    condition     = join(" ", sharedos_rollout.this.vms) == "shop-c shop-a shop-b shop-d"
    error_message = "The order is ${join(" ", sharedos_rollout.this.vms)}."
  }
  assert {
    condition     = sharedos_rollout.this.soak == "5m" && sharedos_rollout.this.max_unavailable == 1
    error_message = "The defaults have to be careful."
  }
}

run "a_canary_has_to_be_a_vm" {
  command = plan

  variables {
    canaries = ["x"]
  }
  expect_failures = [var.canaries]
}

# The newest release of a component that another configuration manages.
data "sharedos_component" "postgres" {
  name = "postgres"
}

# A VM with it runs the base release that the component is built on.
resource "sharedos_vm" "db" {
  name       = "db"
  base       = data.sharedos_component.postgres.base
  components = [data.sharedos_component.postgres.release]
  memory     = "1GiB"
  disk       = { size = "8GiB" }
}

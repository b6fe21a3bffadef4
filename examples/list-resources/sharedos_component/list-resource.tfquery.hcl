# All components in the pool: terraform query
list "sharedos_component" "all" {
  provider = sharedos
}

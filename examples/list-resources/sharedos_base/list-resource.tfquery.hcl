# All bases in the pool: terraform query
list "sharedos_base" "all" {
  provider = sharedos
}

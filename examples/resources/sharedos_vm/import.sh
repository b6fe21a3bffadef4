terraform import sharedos_vm.web web

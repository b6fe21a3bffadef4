terraform import sharedos_base.debian debian-13

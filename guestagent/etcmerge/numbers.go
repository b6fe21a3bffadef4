package etcmerge

import (
	"maps"
	"slices"
	"strconv"
)

// nobodyHere is the owner of files whose account does not exist in this VM while another account has its number.
const nobodyHere = 0 // root, who can read them anyway

// Numbers maps account numbers of a release to those of the same accounts in this VM.
type Numbers map[uint32]uint32

// Of returns the number in this VM.
func (n Numbers) Of(number uint32) uint32 {
	if here, ok := n[number]; ok {
		return here
	}
	return number
}

// renumbering compares a release's passwd or group file with the VM's. local reports whether an
// account of the VM is another than the release's of the same name.
func renumbering(release, here string, local func(name string) bool) Numbers {
	theirs, ours := accountNumbers(release), accountNumbers(here)
	taken := map[uint32]bool{}
	for _, number := range ours {
		taken[number] = true
	}
	numbers, fixed := Numbers{}, map[uint32]bool{0: true}
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		number := theirs[name]
		own, exists := ours[name]
		exists = exists && !local(name)
		switch _, mapped := numbers[number]; {
		case exists && own == number:
			fixed[number] = true
		case exists && (!mapped || numbers[number] == nobodyHere):
			numbers[number] = own
		case !exists && !mapped && taken[number]:
			numbers[number] = nobodyHere
		}
	}
	for number := range fixed {
		delete(numbers, number) // one of the accounts that share the number has it here, too
	}
	return numbers
}

// accountNumbers returns the numbers of a passwd or group file by name.
func accountNumbers(text string) map[string]uint32 {
	all := map[string]uint32{}
	for name, line := range byName(accountFiles[passwdPath].parse(text)) {
		if n, err := strconv.ParseUint(line.field(numberIndex), 10, 32); err == nil {
			all[name] = uint32(n)
		}
	}
	return all
}

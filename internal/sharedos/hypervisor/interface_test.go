package hypervisor

import "testing"

// How an interface of a running domain becomes another one.
func TestTheChangeOfAnInterface(t *testing.T) {
	const uuid, name = "11111111-2222-4333-8444-555555555555", "lan"
	own := MAC(uuid, name)
	user := func(port uint16) *Interface {
		return &Interface{User: &UserNetwork{Forwards: map[uint16]uint16{port: 22}}}
	}
	for what, c := range map[string]struct {
		from, to *Interface
		want     Change
	}{
		"none": {nil, nil, ChangeNone},
		"the same": {&Interface{Bridge: "a"},
			&Interface{Bridge: "a", MAC: own, Model: Virtio, Queues: 1}, ChangeNone},
		"the same forwards": {user(2222), user(2222), ChangeNone},
		"none of them, in other words": {&Interface{User: &UserNetwork{}},
			&Interface{User: &UserNetwork{Forwards: map[uint16]uint16{}}}, ChangeNone},
		"it comes":                  {nil, &Interface{Bridge: "a"}, ChangeAgain},
		"it goes":                   {&Interface{Network: "a"}, nil, ChangeAgain},
		"a user-mode network comes": {nil, user(2222), ChangePowerOff},
		"a user-mode network goes":  {user(2222), nil, ChangePowerOff},
		"another forward":           {user(2222), user(2223), ChangePowerOff},
		"from a user-mode network":  {user(2222), &Interface{Bridge: "a"}, ChangePowerOff},
		"to a user-mode network":    {&Interface{Bridge: "a"}, user(2222), ChangePowerOff},
		"the link":                  {&Interface{Bridge: "a"}, &Interface{Bridge: "a", Down: true}, ChangeUpdate},
		"the link of one in a VLAN": {&Interface{Bridge: "a", VLAN: 2},
			&Interface{Bridge: "a", VLAN: 2, Down: true}, ChangeUpdate},
		"another bridge": {&Interface{Bridge: "a", MTU: 9000},
			&Interface{Bridge: "b", MTU: 9000}, ChangeUpdate},
		"another network":            {&Interface{Network: "a"}, &Interface{Network: "b"}, ChangeUpdate},
		"from a bridge to a network": {&Interface{Bridge: "a"}, &Interface{Network: "a", Down: true}, ChangeUpdate},
		"another bridge, and its VLAN": {&Interface{Bridge: "a", VLAN: 2},
			&Interface{Bridge: "b", VLAN: 2}, ChangeAgain},
		"a VLAN":  {&Interface{Bridge: "a"}, &Interface{Bridge: "a", VLAN: 2}, ChangeAgain},
		"no VLAN": {&Interface{Bridge: "a", VLAN: 2}, &Interface{Bridge: "b"}, ChangeAgain},
		"a MAC address": {&Interface{Bridge: "a"},
			&Interface{Bridge: "a", MAC: "52:54:00:00:00:01"}, ChangeAgain},
		"a model": {&Interface{Bridge: "a"},
			&Interface{Bridge: "a", Model: "e1000e"}, ChangeAgain},
		"an MTU, and the link": {&Interface{Bridge: "a"},
			&Interface{Bridge: "a", MTU: 9000, Down: true}, ChangeAgain},
		"queues":                         {&Interface{Bridge: "a"}, &Interface{Bridge: "a", Queues: 2}, ChangeAgain},
		"the MTU of a user-mode network": {user(2222), &Interface{User: user(2222).User, MTU: 9000}, ChangePowerOff},
	} {
		if got := c.from.ChangeTo(c.to, uuid, name); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
}

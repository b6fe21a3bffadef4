package hypervisor

import "testing"

func TestTheVSockIsServedWhenQEMUSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		answer        string
		served, fails bool
	}{
		"driven":    {`{"return":{"vhost-started":true,"started":true},"id":"libvirt-1"}`, true, false},
		"reset":     {`{"return":{"vhost-started":false,"started":false}}`, false, false},
		"old QEMU":  {`{"error":{"class":"CommandNotFound","desc":"no"}}`, true, false},
		"no device": {`{"error":{"class":"GenericError","desc":"Path is not a VirtIODevice"}}`, false, true},
		"empty":     {`{}`, false, true},
		"garbage":   {`no`, false, true},
	} {
		served, err := vsockServed([]byte(c.answer))
		if served != c.served || (err != nil) != c.fails {
			t.Errorf("%s: %v, %v", name, served, err)
		}
	}
}

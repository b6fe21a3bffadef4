package impact

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

const profiles = `# flags=(attach_disconnected) {
abi <abi/4.0>,
profile plain /usr/sbin/plain {
  /usr/** r,
}
profile attached /usr/sbin/attached flags=(attach_disconnected,mediate_deleted) {
}
/usr/sbin/by-path flags=(complain, attach_disconnected) {
}
profile "with space" flags=(complain) {
}
`

func TestAProfileSaysWhetherItAttachesDisconnectedPaths(t *testing.T) {
	for profile, want := range map[string]bool{
		"attached": true, "/usr/sbin/by-path": true, "plain": false, "with": false, "with space": false,
		"absent": false, "#": false,
	} {
		if got := AttachesDisconnected(profiles, profile); got != want {
			t.Errorf("%s: %v", profile, got)
		}
	}
}

func TestAConfinedServiceIsAffectedByTheSwapItself(t *testing.T) {
	p := service(1, "a.service")
	p.Program, p.ProgramDevice, p.Confined = "usr/sbin/a", oldUsr, "a"
	before := Snapshot{Usr: []proc.Device{oldUsr}, Processes: []Process{p}}
	if got := outcome(Assess(changed("usr/share/doc/x"), before, Policy{}), "a.service"); got != "restart" {
		t.Errorf("before the swap it is %q", got)
	}
	after := Snapshot{Usr: []proc.Device{oldUsr, newUsr}, Fresh: newUsr, Processes: []Process{p}}
	if got := outcome(Assess(changed("usr/share/doc/x"), after, Policy{}), "a.service"); got != "restart" {
		t.Errorf("after the swap it is %q", got)
	}
	after.Processes[0].ProgramDevice = newUsr
	if got := outcome(Assess(changed("usr/share/doc/x"), after, Policy{}), "a.service"); got != "" {
		t.Errorf("restarted it is %q", got)
	}
}

package guestconfig

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Problem is why a document cannot be used. It quotes no content of a file.
type Problem struct {
	// At leads to the attribute: {"files", "/etc/motd", "mode"}.
	At  []string
	Err error
}

func (p *Problem) Error() string { return fmt.Sprintf("%s: %v", Attribute(p.At), p.Err) }

func (p *Problem) Unwrap() error { return p.Err }

// Attribute writes what leads to an attribute as a configuration does: files["/etc/motd"].mode.
func Attribute(at []string) string {
	var text strings.Builder
	for i, name := range at {
		switch i {
		case 0:
			text.WriteString(name)
		case 1, 3: // keys of maps
			fmt.Fprintf(&text, "[%q]", name)
		default:
			text.WriteString("." + name)
		}
	}
	return text.String()
}

// places are the directories in which a guest's files can be configured. The others are the
// stack's, or do not outlast a boot.
var places = []string{"/etc/", "/var/", "/srv/", "/opt/", "/usr/local/", "/root/", "/home/"}

// owned are files that something else writes, each with what to use instead.
var owned = map[string]string{
	"/etc/hostname":              "use the attribute hostname",
	"/etc/machine-id":            "it follows from the UUID of the VM",
	"/etc/mtab":                  "the kernel has it",
	"/etc/resolv.conf":           "the network manager of the guest writes it",
	"/etc/ld.so.cache":           "ldconfig writes it",
	"/etc/localtime":             "use the attribute time_zone",
	"/etc/locale.conf":           "use the attribute locale",
	"/root/.ssh/authorized_keys": "use the attribute ssh_authorized_keys",
}

// accountFiles are merged by entry with those of a release.
var accountFiles = []string{"passwd", "group", "shadow", "gshadow", "subuid", "subgid"}

// maxPath bounds a path, which has to fit into one line of what an agent says, and maxName one part of it, in bytes.
const (
	maxPath = 900
	maxName = 200
)

// CheckPath checks the path of a file that is to be configured in a guest.
func CheckPath(name string) error {
	switch {
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("it has characters that are not visible")
	case !path.IsAbs(name) || path.Clean(name) != name || name == "/":
		return errors.New(`it is not an absolute path without ".", "..", a doubled "/" and a "/" at its end`)
	case len(name) > maxPath ||
		slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return len(part) > maxName }):
		return fmt.Errorf("it is longer than %d bytes, or a part of it than %d", maxPath, maxName)
	case !slices.ContainsFunc(places, func(place string) bool { return strings.HasPrefix(name, place) }):
		return fmt.Errorf(
			"files can be configured below %s: the rest of the guest is the stack's, or does not outlast a boot",
			strings.Join(places, ", "))
	case owned[name] != "":
		return fmt.Errorf("it cannot be configured as a file: %s", owned[name])
	case strings.HasPrefix(name, "/var/opt/"), strings.HasPrefix(name, "/var/usrlocal/"):
		return errors.New("it is a second name: use /opt or /usr/local")
	}
	if base, ok := strings.CutPrefix(name, "/etc/"); ok {
		original := strings.TrimSuffix(base, "-")
		if slices.Contains(accountFiles, original) || base == ".pwd.lock" || base == ".updated" {
			return errors.New(
				"it cannot be configured as a file: the tools for accounts write it; use the attribute users")
		}
	}
	return nil
}

var (
	unitName = regexp.MustCompile(
		`^[A-Za-z0-9][A-Za-z0-9:_.\\@-]{0,180}\.(service|socket|mount|swap|path|timer|target|slice|automount)$`)
	dropInName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:_.@-]{0,180}\.conf$`)
	accountName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
	sysctlName  = regexp.MustCompile(`^[A-Za-z0-9_-]+([./][A-Za-z0-9_:-]+)+$`)
	zoneName    = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$`)
	localeName  = regexp.MustCompile(`^[A-Za-z]{1,8}(_[A-Za-z]{2,4})?(\.[A-Za-z0-9-]{1,16})?(@[a-z]{1,16})?$`)
)

// agentUnits begins the names of units of this project.
const agentUnits = "sharedos-"

// CheckUnit checks the name of a unit that is to be configured.
func CheckUnit(name string) error {
	switch {
	case !unitName.MatchString(name):
		return errors.New("it is not the name of a unit, such as nginx.service")
	case strings.HasPrefix(name, agentUnits):
		return fmt.Errorf("units whose names begin with %q are this provider's own", agentUnits)
	}
	return nil
}

// CheckAccount checks the name of an account or a group (systemd-sysusers(8)).
func CheckAccount(name string) error {
	if !accountName.MatchString(name) {
		return errors.New(
			"a name has at most 31 lower-case letters, digits, underscores and hyphens, and starts with a letter or an underscore")
	}
	return nil
}

// CheckOwner checks the owner or group of a file: a name or a number.
func CheckOwner(name string) error {
	if _, err := strconv.ParseUint(name, 10, 32); err == nil && name != strconv.FormatUint(1<<32-1, 10) {
		return nil
	}
	return CheckAccount(name)
}

// CheckSysctl checks the name of a kernel parameter.
func CheckSysctl(name string) error {
	if !sysctlName.MatchString(name) || len(name) > maxName || strings.Contains(name, "..") {
		return errors.New("it is not the name of a kernel parameter, such as net.ipv4.ip_forward")
	}
	return nil
}

// CheckTimeZone checks the name of a time zone.
func CheckTimeZone(name string) error {
	if !zoneName.MatchString(name) || len(name) > maxName {
		return errors.New("it is not the name of a time zone, such as Europe/Berlin or UTC")
	}
	return nil
}

// CheckLocale checks a value of LANG.
func CheckLocale(name string) error {
	if !localeName.MatchString(name) {
		return errors.New("it is not the name of a locale, such as en_US.UTF-8 or C.UTF-8")
	}
	return nil
}

// oneLine checks a text that becomes a field of a line.
func oneLine(text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("it is not one line of visible characters")
	}
	return nil
}

// checker collects problems.
type checker struct{ problems []*Problem }

func (c *checker) check(err error, at ...string) {
	if err != nil {
		c.problems = append(c.problems, &Problem{At: at, Err: err})
	}
}

// Check returns what is wrong with the document, in the order of its attributes.
func (d *Document) Check() []*Problem {
	c := &checker{}
	for name, n := range map[string]int{"files": len(d.Files), "units": len(d.Units), "users": len(d.Users),
		"sysctl": len(d.Sysctl)} {
		if n > MaxEntries {
			c.check(fmt.Errorf("it has %d entries, and %d are allowed", n, MaxEntries), name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		c.file(name, d.Files[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.Units)) {
		c.unit(name, d.Units[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.Users)) {
		c.user(name, d.Users[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.Sysctl)) {
		c.check(CheckSysctl(name), "sysctl", name)
		c.check(oneLine(d.Sysctl[name]), "sysctl", name)
	}
	if d.TimeZone != "" {
		c.check(CheckTimeZone(d.TimeZone), "time_zone")
	}
	if d.Locale != "" {
		c.check(CheckLocale(d.Locale), "locale")
	}
	if d.Swap != 0 && (d.Swap < MinSwap || d.Swap > MaxSwap || d.Swap%(1<<20) != 0) {
		c.check(fmt.Errorf("it must be whole MiB, between %d and %d", MinSwap>>20, int64(MaxSwap)>>20), "swap")
	}
	c.networks(d)
	for i := 0; i < len(Managers) && len(c.problems) == 0; i++ {
		c.twice(d.Items(Managers[i].Manager))
	}
	return c.problems
}

func (c *checker) file(name string, f File) {
	at := func(attribute ...string) []string { return append([]string{"files", name}, attribute...) }
	c.check(CheckPath(name), at()...)
	if f.Mode > 0o777 {
		c.check(errors.New("it has more than permission bits"), at("mode")...)
	}
	if f.Secret && f.Mode&0o007 != 0 {
		c.check(errors.New("a secret must not be accessible for everybody: its last digit must be 0"), at("mode")...)
	}
	if f.Secret && len(f.Content) > 0 {
		c.check(errors.New("it has a content beside its secret"), at()...)
	}
	c.check(CheckOwner(f.Owner), at("owner")...)
	c.check(CheckOwner(f.Group), at("group")...)
	for _, unit := range f.Restart {
		c.check(CheckUnit(unit), at("restart")...)
	}
	for _, unit := range f.Reload {
		c.check(CheckUnit(unit), at("reload")...)
	}
}

func (c *checker) unit(name string, u Unit) {
	at := func(attribute ...string) []string { return append([]string{"units", name}, attribute...) }
	c.check(CheckUnit(name), at()...)
	template := strings.Contains(name, "@.")
	if template && (u.Started != nil || u.Enabled != nil) {
		c.check(errors.New("a template cannot be started or enabled: name an instance of it"), at()...)
	}
	if u.Content == nil && len(u.DropIns) == 0 && u.Enabled == nil && u.Started == nil {
		c.check(errors.New("it says nothing: set content, drop_ins, enabled or started"), at()...)
	}
	if u.Content != nil && strings.TrimSpace(*u.Content) == "" {
		c.check(errors.New("an empty unit file masks the unit: set started and enabled to false instead"),
			at("content")...)
	}
	if len(u.DropIns) > MaxEntries {
		c.check(fmt.Errorf("it has %d entries, and %d are allowed", len(u.DropIns), MaxEntries), at("drop_ins")...)
	}
	for _, dropIn := range slices.Sorted(maps.Keys(u.DropIns)) {
		if !dropInName.MatchString(dropIn) {
			c.check(errors.New("it is not the name of a drop-in, such as limits.conf"), at("drop_ins", dropIn)...)
		}
	}
}

func (c *checker) user(name string, u User) {
	at := func(attribute ...string) []string { return append([]string{"users", name}, attribute...) }
	c.check(CheckAccount(name), at()...)
	if name == "root" {
		c.check(errors.New("root is the guest's own: use ssh_authorized_keys"), at()...)
	}
	for attribute, value := range map[string]string{"home": u.Home, "shell": u.Shell} {
		if !path.IsAbs(value) || path.Clean(value) != value || oneLine(value) != nil ||
			strings.ContainsAny(value, `": %\`) {
			c.check(errors.New("it is not an absolute path without spaces, quotes and colons"), at(attribute)...)
		}
	}
	if !strings.HasPrefix(u.Home, "/home/") && !strings.HasPrefix(u.Home, "/var/") &&
		!strings.HasPrefix(u.Home, "/srv/") {
		c.check(errors.New("a home must be below /home, /var or /srv, which are the VM's own"), at("home")...)
	}
	if u.UID != nil && (*u.UID == 0 || *u.UID >= 65534) {
		c.check(errors.New("it must be between 1 and 65533"), at("uid")...)
	}
	for _, group := range u.Groups {
		c.check(CheckAccount(group), at("groups")...)
	}
	for _, key := range u.AuthorizedKeys {
		c.check(oneLine(key), at("authorized_keys")...)
	}
}

// twice finds two attributes that configure one path, and a path below another one.
func (c *checker) twice(items []Item) {
	by := map[string][]string{}
	for _, item := range items {
		if other, twice := by[item.Path]; twice {
			c.check(fmt.Errorf("%s configures the file %s, too", Attribute(other), item.Path), item.At...)
		}
		by[item.Path] = item.At
	}
	for _, item := range items {
		for parent := path.Dir(item.Path); parent != "/"; parent = path.Dir(parent) {
			if other, both := by[parent]; both {
				c.check(fmt.Errorf("its directory %s is a file that %s configures", parent, Attribute(other)),
					item.At...)
			}
		}
	}
}

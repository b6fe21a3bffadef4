package guestconfig

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Item is a file, or a symbolic link, that a document becomes in the guest.
type Item struct {
	// Path is absolute and clean.
	Path string
	// At leads to the attribute that configures it.
	At []string
	// Link is the target of a symbolic link; "" for a regular file, which the following describe.
	Link          string
	Content       []byte
	Secret        bool
	SecretVersion int64
	Mode          uint32
	Owner, Group  string
	// Unit is the unit that the file is of; "" if it is of none.
	Unit string
	// Network is the name of the network that the file is of; "" if it is of none.
	Network string
	// Restart and Reload are units that use the file.
	Restart, Reload []string
}

// Where the files of a document go, apart from those that it names itself.
const (
	UnitDirectory  = "/etc/systemd/system/"
	SysusersFile   = "/etc/sysusers.d/90-sharedos-configuration.conf"
	TmpfilesFile   = "/etc/tmpfiles.d/90-sharedos-configuration.conf"
	SysctlFile     = "/etc/sysctl.d/90-sharedos-configuration.conf"
	LocalTimeFile  = "/etc/localtime"
	LocaleFile     = "/etc/locale.conf"
	ZonesDirectory = "/usr/share/zoneinfo/"
)

// SwapFile is the swap file, and SwapUnit the unit that takes it into use: systemd derives its name from the path.
const (
	SwapFile = "/var/lib/sharedos/swapfile"
	SwapUnit = "var-lib-sharedos-swapfile.swap"
	swapText = "[Unit]\nDescription=Swap file of the configuration\n\n[Swap]\nWhat=" + SwapFile + "\n"
)

// MinSwap and MaxSwap bound the size of a swap file, in bytes.
const (
	MinSwap = 1 << 20
	MaxSwap = 1 << 40
)

// SudoersFile is the file that lets an account use sudo (sudoers(5): names with a dot are left out).
func SudoersFile(user string) string { return "/etc/sudoers.d/90-sharedos-" + user }

// Items returns the files of a document that Check accepts, sorted by path. Those of networks are
// for a manager; there are none without one.
func (d *Document) Items(manager Manager) []Item {
	items := d.NetworkItems(manager)
	for name, f := range d.Files {
		items = append(items, Item{
			Path: name, At: []string{"files", name}, Content: f.Content, Secret: f.Secret,
			SecretVersion: f.SecretVersion,
			Mode:          f.Mode, Owner: f.Owner, Group: f.Group, Restart: f.Restart, Reload: f.Reload,
		})
	}
	system := func(name, text string, mode uint32, unit string, at ...string) {
		items = append(items,
			Item{Path: name, At: at, Content: []byte(text), Mode: mode, Owner: "root", Group: "root", Unit: unit})
	}
	for name, u := range d.Units {
		if u.Content != nil {
			system(UnitDirectory+name, *u.Content, 0o644, name, "units", name, "content")
		}
		for dropIn, text := range u.DropIns {
			system(UnitDirectory+name+".d/"+dropIn, text, 0o644, name, "units", name, "drop_ins", dropIn)
		}
	}
	if len(d.Users) > 0 {
		sysusers, tmpfiles := accountLines(d.Users)
		system(SysusersFile, sysusers, 0o644, "", "users")
		system(TmpfilesFile, tmpfiles, 0o644, "", "users")
	}
	for name, u := range d.Users {
		if u.Sudo {
			system(SudoersFile(name), name+" ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440, "", "users", name, "sudo")
		}
	}
	if len(d.Sysctl) > 0 {
		var lines strings.Builder
		for _, name := range slices.Sorted(maps.Keys(d.Sysctl)) {
			fmt.Fprintf(&lines, "%s = %s\n", name, d.Sysctl[name])
		}
		system(SysctlFile, lines.String(), 0o644, "", "sysctl")
	}
	if d.Swap != 0 {
		system(UnitDirectory+SwapUnit, swapText, 0o644, "", "swap")
		items = append(items,
			Item{Path: UnitDirectory + "swap.target.wants/" + SwapUnit, At: []string{"swap"}, Link: "../" + SwapUnit})
	}
	if d.TimeZone != "" {
		items = append(items,
			Item{Path: LocalTimeFile, At: []string{"time_zone"}, Link: ".." + ZonesDirectory + d.TimeZone})
	}
	if d.Locale != "" {
		system(LocaleFile, "LANG="+d.Locale+"\n", 0o644, "", "locale")
	}
	slices.SortFunc(items, func(a, b Item) int {
		if order := strings.Compare(a.Path, b.Path); order != 0 {
			return order
		}
		return slices.Compare(a.At, b.At)
	})
	return items
}

// accountLines returns what systemd-sysusers(8) and systemd-tmpfiles(8) make of accounts.
func accountLines(users map[string]User) (sysusers, tmpfiles string) {
	var accounts, homes strings.Builder
	groups := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		u := users[name]
		uid := "-"
		if u.UID != nil {
			uid = fmt.Sprint(*u.UID)
		}
		fmt.Fprintf(&accounts, "u %s %s \"\" %s %s\n", name, uid, u.Home, u.Shell)
		fmt.Fprintf(&homes, "d %s 0700 %s %s -\n", u.Home, name, name)
		if len(u.AuthorizedKeys) > 0 {
			fmt.Fprintf(&homes, "d %s/.ssh 0700 %s %s -\n", u.Home, name, name)
		}
		for _, group := range u.Groups {
			groups[group] = true
		}
	}
	var lines strings.Builder
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		if _, user := users[group]; !user {
			fmt.Fprintf(&lines, "g %s -\n", group)
		}
	}
	lines.WriteString(accounts.String())
	for _, name := range slices.Sorted(maps.Keys(users)) {
		for _, group := range users[name].Groups {
			fmt.Fprintf(&lines, "m %s %s\n", name, group)
		}
	}
	return lines.String(), homes.String()
}

package impact

import (
	"path"
	"strings"
)

// language is a programming language whose code is read by an interpreter.
type language string

// shell is the language of all shells.
const shell language = "shell"

// languageOf returns the language of a file of code, "" for other files.
func languageOf(name string) language {
	switch extension := path.Ext(name); {
	case extension == ".py", extension == ".pyc", strings.HasPrefix(name, "usr/lib/python"):
		return "python"
	case extension == ".pl", extension == ".pm", strings.HasPrefix(name, "usr/share/perl"),
		strings.HasPrefix(name, "usr/lib/") && strings.Contains(name, "/perl"):
		return "perl"
	case extension == ".rb", strings.HasPrefix(name, "usr/lib/ruby/"):
		return "ruby"
	case extension == ".js", extension == ".mjs", extension == ".cjs", strings.HasPrefix(name, "usr/share/nodejs/"):
		return "node"
	case extension == ".php":
		return "php"
	case extension == ".lua":
		return "lua"
	case extension == ".beam":
		return "erlang"
	case extension == ".tcl":
		return "tcl"
	}
	return ""
}

// interpreters maps the prefix of a program's name to the language that it interprets.
var interpreters = []struct {
	prefix   string
	language language
}{
	{"python", "python"}, {"perl", "perl"}, {"ruby", "ruby"}, {"node", "node"}, {"php", "php"},
	{"php-fpm", "php"}, {"pypy", "python"},
	{"beam.smp", "erlang"}, {"lua", "lua"}, {"luajit", "lua"}, {"tclsh", "tcl"}, {"bash", shell}, {"dash", shell},
	{"sh", shell}, {"busybox", shell}, {"ksh", shell}, {"zsh", shell},
}

// interpreterOf returns the language that a program interprets, "" for other programs.
func interpreterOf(program string) language {
	base := path.Base(program)
	for _, i := range interpreters {
		rest, starts := strings.CutPrefix(base, i.prefix)
		if starts && strings.Trim(rest, "0123456789.-") == "" {
			return i.language
		}
	}
	return ""
}

// words returns the words of an interpreter's command line that may name files: the arguments that are no options. The
// argument of -c is split into words as a shell would, of which only absolute paths count.
func words(cmdline string) (found []string) {
	code := false
	for i, argument := range strings.Split(strings.TrimSuffix(cmdline, "\x00"), "\x00") {
		switch {
		case i == 0:
		case code:
			for _, text := range strings.FieldsFunc(argument, endsWord) {
				if strings.HasPrefix(text, "/") {
					found = append(found, text)
				}
			}
			code = false
		case isCodeOption(argument):
			code = true
		case !strings.HasPrefix(argument, "-"):
			found = append(found, argument)
		}
	}
	return found
}

// argument returns the file that a word names in a process with this working directory, "" if it names none.
func argument(word, working string) string {
	if !strings.HasPrefix(word, "/") {
		if working == "" {
			return ""
		}
		word = working + "/" + word
	}
	name, _ := Resolve(word)
	return name
}

// isCodeOption reports whether the next argument may be code: after "-c" of shells and Python, or "-e" of others, alone
// or behind other letters ("-ec"). No code follows a shell's -e; its next argument then counts as a word of code, too.
func isCodeOption(argument string) bool {
	return len(argument) > 1 && argument[0] == '-' && argument[1] != '-' && strings.HasSuffix(argument, "c") ||
		argument == "-e"
}

// endsWord reports whether a character separates words in the code of a shell.
func endsWord(r rune) bool { return strings.ContainsRune(" \t\n;&|()<>{}'\"`=$:", r) }

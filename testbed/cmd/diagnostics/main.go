// Command diagnostics prints a page of the documentation with every diagnostic of the provider:
// what it says, the cause, and what to do.
//
// It reads them from the source: summaries and details from calls in package provider, and causes from the errors that
// packages declare and their comments. What to do about a cause is what package provider says of it (nextStep, or the
// failures of an operation), or else how the messages with that cause end. So the page cannot differ from the code.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	page, err := page(os.Args[1:])
	if err == nil {
		_, err = os.Stdout.WriteString(page)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "diagnostics:", err)
		os.Exit(1)
	}
}

const head = `---
page_title: "Diagnostics - Shared OS"
subcategory: ""
description: |-
  Every error and warning of the provider, with its cause and what to do.
---

# Diagnostics

A diagnostic has a summary, such as *Unable to update VM "web-a"*, the cause, the step at which it happened, and what to do. This page is
made from the source of the provider, so it has all of them. "…" stands for what differs from case to case.

`

// page reads the source in a directory and returns the page.
func page(arguments []string) (string, error) {
	if len(arguments) != 1 {
		return "", errors.New("usage: diagnostics ROOT")
	}
	s := &source{texts: map[string]ast.Expr{}, remedies: map[string]string{}, endings: map[string][]string{},
		aliases: map[string]string{}}
	if err := s.read(filepath.Join(arguments[0], "provider"), "internal/sharedos", arguments[0]); err != nil {
		return "", err
	}
	if len(s.causes) == 0 || len(s.said) == 0 || len(s.remedies) == 0 {
		return "", fmt.Errorf("found %d causes, %d diagnostics and %d remedies", len(s.causes),
			len(s.said), len(s.remedies))
	}
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(
		"## Causes\n\nThe text of a cause is in the second part of a diagnostic, after what was being done.\n\n| the diagnostic says | which means that | what to do |\n|---|---|---|\n")
	slices.SortFunc(s.causes,
		func(a, b cause) int { return cmp.Or(cmp.Compare(a.text, b.text), cmp.Compare(a.name, b.name)) })
	for _, one := range s.causes {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(one.text), cell(one.means), cell(s.whatToDo(one.name)))
	}
	b.WriteString("\n## Diagnostics\n\n| | summary | what it says, and what to do |\n|---|---|---|\n")
	slices.SortFunc(s.said, func(a, b diagnostic) int {
		return cmp.Or(cmp.Compare(a.summary, b.summary), cmp.Compare(a.kind, b.kind), cmp.Compare(a.detail, b.detail))
	})
	for _, one := range slices.Compact(s.said) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", one.kind, cell(one.summary), cell(one.detail))
	}
	return b.String(), nil
}

// cell makes a text fit for a cell of a table in Markdown.
func cell(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, special := range []string{"|", "<", "*", "_", "`"} {
		text = strings.ReplaceAll(text, special, `\`+special)
	}
	return text
}

// cause is an error that a package declares.
type cause struct {
	// name as the provider writes it, such as "store.ErrNoPool".
	name, text, means string
}

// diagnostic is a call that makes one.
type diagnostic struct{ kind, summary, detail string }

type source struct {
	causes []cause
	said   []diagnostic
	// texts are the constants of package provider.
	texts map[string]ast.Expr
	// remedies are what package provider says to do, and endings how messages end that wrap the cause, both by the
	// names of causes.
	remedies map[string]string
	endings  map[string][]string
	// aliases are causes that are those of other packages: "hypervisor.ErrUnreachable" is "libvirtconn.ErrUnreachable".
	aliases map[string]string
}

// whatToDo says what to do about a cause.
func (s *source) whatToDo(name string) string {
	if remedy := s.remedies[name]; remedy != "" {
		return remedy
	}
	for _, alias := range slices.Sorted(maps.Keys(s.aliases)) {
		if s.aliases[alias] == name && s.remedies[alias] != "" {
			return s.remedies[alias]
		}
	}
	endings := slices.Clone(s.endings[name])
	slices.Sort(endings)
	if endings = slices.Compact(endings); len(endings) > 0 {
		for i, ending := range endings {
			endings[i] = strings.ToUpper(ending[:1]) + ending[1:] + "."
		}
		return strings.Join(endings[:min(len(endings), 3)], " Or: ")
	}
	return "The message says it."
}

// read reads package provider, and the packages below another directory.
func (s *source) read(provider, below, root string) error {
	files, err := parse(provider)
	if err != nil {
		return err
	}
	for _, file := range files {
		for _, declared := range file.Decls {
			s.constants(declared)
		}
	}
	for _, file := range files {
		ast.Inspect(file, s.diagnostics)
		ast.Inspect(file, s.otherRemedy)
	}
	return filepath.WalkDir(filepath.Join(root, below), func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if strings.HasSuffix(entry.Name(), "test") {
			return fs.SkipDir // fakes
		}
		files, err := parse(dir)
		for _, file := range files {
			for _, declared := range file.Decls {
				s.errors(file.Name.Name, declared)
			}
			ast.Inspect(file, func(node ast.Node) bool { return s.ending(file.Name.Name, node) })
		}
		return err
	})
}

// parse reads the files of a package that are no tests.
func parse(dir string) ([]*ast.File, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// constants remembers the constants of package provider that are texts.
func (s *source) constants(declared ast.Decl) {
	general, ok := declared.(*ast.GenDecl)
	if !ok || general.Tok != token.CONST {
		return
	}
	for _, spec := range general.Specs {
		if value, ok := spec.(*ast.ValueSpec); ok && len(value.Names) == len(value.Values) {
			for i, name := range value.Names {
				s.texts[name.Name] = value.Values[i]
			}
		}
	}
}

// errors collects the errors that a package exports.
func (s *source) errors(pkg string, declared ast.Decl) {
	general, ok := declared.(*ast.GenDecl)
	if !ok || general.Tok != token.VAR {
		return
	}
	for _, spec := range general.Specs {
		value, ok := spec.(*ast.ValueSpec)
		if !ok || len(value.Names) != 1 || len(value.Values) != 1 || !strings.HasPrefix(value.Names[0].Name, "Err") {
			continue
		}
		if same := causeName(pkg, value.Values[0]); same != "" { // the same as an error of another package
			s.aliases[pkg+"."+value.Names[0].Name] = same
		}
		call, ok := value.Values[0].(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			continue
		}
		name := value.Names[0].Name
		comment := value.Doc.Text()
		if comment == "" && len(general.Specs) == 1 {
			comment = general.Doc.Text()
		}
		means := strings.TrimSpace(comment)
		for _, start := range []string{name + " means that ", name + " is why ",
			name + " is returned if ", name + " means "} {
			means = strings.TrimPrefix(means, start)
		}
		text := strings.TrimSuffix(verb.ReplaceAllString(s.text(call.Args[0]), "…"), ": …")
		s.causes = append(s.causes, cause{pkg + "." + name, text, means})
	}
}

// diagnostics collects what a node of package provider makes.
func (s *source) diagnostics(node ast.Node) bool {
	switch node := node.(type) {
	case *ast.FuncDecl:
		if node.Name.Name == "nextStep" {
			ast.Inspect(node, s.remedy)
			return false
		}
		return node.Name.Name != "failed" && node.Name.Name != "failedAt"
	case *ast.CallExpr:
		name := called(node)
		args := node.Args
		at, kind := 0, "error"
		if strings.Contains(name, "Attribute") {
			at = 1
		}
		if strings.Contains(name, "Warning") {
			kind = "warning"
		}
		isOne := slices.Contains([]string{"AddError", "AddWarning", "AddAttributeError", "AddAttributeWarning"},
			name) ||
			strings.HasPrefix(name, "New") && strings.HasSuffix(name, "Diagnostic")
		if isOne && len(args) == at+2 {
			if summary := s.text(args[at]); strings.Trim(summary, "… ") != "" && summary != theCause {
				s.said = append(s.said, diagnostic{kind, summary, s.text(args[at+1])})
			}
		}
	case *ast.CompositeLit:
		if kind, ok := node.Type.(*ast.Ident); ok && kind.Name == "failure" {
			s.failure(node)
		}
	}
	return true
}

// failure collects a failure, whose cause is one of those in the first table.
func (s *source) failure(literal *ast.CompositeLit) {
	fields := map[string]string{}
	for _, element := range literal.Elts {
		if pair, ok := element.(*ast.KeyValueExpr); ok {
			if name, ok := pair.Key.(*ast.Ident); ok {
				fields[name.Name] = s.text(pair.Value)
			}
		}
	}
	if fields["do"] == "" { // a detail alone
		return
	}
	detail := fields["err"]
	if detail == "" || detail == "…" {
		detail = "The cause."
	}
	if next := fields["next"]; next != "" && next != "…" {
		detail += " " + next
	}
	s.said = append(s.said,
		diagnostic{"error", strings.ReplaceAll("Unable to "+fields["do"]+" "+fields["object"], "… …", "…"), detail})
}

// remedy collects a case of nextStep.
func (s *source) remedy(node ast.Node) bool {
	clause, ok := node.(*ast.CaseClause)
	if !ok || len(clause.Body) == 0 {
		return true
	}
	result, ok := clause.Body[len(clause.Body)-1].(*ast.ReturnStmt)
	if !ok || len(result.Results) != 1 {
		return true
	}
	for _, name := range causesIn(clause) {
		s.remedies[name] = strings.Trim(s.text(result.Results[0]), "… ")
	}
	return true
}

// causesIn are the causes that a case asks for.
func causesIn(clause *ast.CaseClause) (names []string) {
	for _, condition := range clause.List {
		ast.Inspect(condition, func(node ast.Node) bool {
			if selected, ok := node.(*ast.SelectorExpr); ok {
				if name := causeName("", selected); name != "" {
					names = append(names, name)
				}
			}
			return true
		})
	}
	return names
}

// otherRemedy collects what package provider says to do about a cause outside of nextStep: a case that sets the next
// step of a failure, and a pair of a cause and a text. nextStep comes first.
func (s *source) otherRemedy(node ast.Node) bool {
	note := func(name string, text ast.Expr) {
		if said := strings.Trim(s.text(text), "… "); said != "" && s.remedies[name] == "" {
			s.remedies[name] = said
		}
	}
	switch node := node.(type) {
	case *ast.CaseClause:
		for _, statement := range node.Body {
			assigned, ok := statement.(*ast.AssignStmt)
			if !ok || len(assigned.Lhs) != 1 {
				continue
			}
			if field, ok := assigned.Lhs[0].(*ast.SelectorExpr); ok && field.Sel.Name == "next" {
				for _, name := range causesIn(node) {
					note(name, assigned.Rhs[0])
				}
			}
		}
	case *ast.CompositeLit:
		if len(node.Elts) == 2 {
			if name := causeName("", node.Elts[0]); name != "" {
				note(name, node.Elts[1])
			}
		}
	}
	return true
}

// causeName is the name of the cause that an expression in a package names; "" if it names none.
func causeName(pkg string, expression ast.Expr) string {
	switch expression := expression.(type) {
	case *ast.Ident:
		if strings.HasPrefix(expression.Name, "Err") {
			return pkg + "." + expression.Name
		}
	case *ast.SelectorExpr:
		if other, ok := expression.X.(*ast.Ident); ok && strings.HasPrefix(expression.Sel.Name, "Err") {
			return other.Name + "." + expression.Sel.Name
		}
	}
	return ""
}

// advice begins what a message says to do, at its end.
var advice = regexp.MustCompile(`(?:; |: (?:run|use|try|check) |\n)`)

// ending collects how a message ends that wraps a cause.
func (s *source) ending(pkg string, node ast.Node) bool {
	call, ok := node.(*ast.CallExpr)
	if !ok || called(call) != "Errorf" || len(call.Args) < 2 {
		return true
	}
	format := s.text(call.Args[0])
	found := advice.FindAllStringIndex(format, -1)
	if len(found) == 0 {
		return true
	}
	said := format[found[len(found)-1][0]:]
	said = strings.TrimSpace(strings.TrimLeft(verb.ReplaceAllString(said, "…"), ";: \n"))
	if strings.HasSuffix(said, "…") || !strings.Contains(said, " ") {
		return true // the rest is another error
	}
	for _, argument := range call.Args[1:] {
		if name := causeName(pkg, argument); name != "" {
			s.endings[name] = append(s.endings[name], strings.TrimSuffix(said, "."))
		}
	}
	return true
}

// called is the name of the function or method that a call calls.
func called(call *ast.CallExpr) string {
	switch function := call.Fun.(type) {
	case *ast.Ident:
		return function.Name
	case *ast.SelectorExpr:
		return function.Sel.Name
	default:
		return ""
	}
}

// theCause stands for the text of an error, which is one of the first table.
const theCause = "The cause. "

// verb matches a verb of package fmt.
var verb = regexp.MustCompile(`%(?:\[\d+\])?[-+# 0]*\d*(?:\.\d+)?[a-zA-Z]`)

// text returns what an expression says, with "…" for what is not known before.
func (s *source) text(expression ast.Expr) string {
	switch expression := expression.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(expression.Value)
		if err != nil {
			return "…"
		}
		return text
	case *ast.BinaryExpr:
		return s.text(expression.X) + s.text(expression.Y)
	case *ast.ParenExpr:
		return s.text(expression.X)
	case *ast.Ident:
		if value := s.texts[expression.Name]; value != nil {
			return s.text(value)
		}
	case *ast.CallExpr:
		switch name := called(expression); {
		case name == "Sprintf" || name == "Errorf":
			text := verb.ReplaceAllString(s.text(expression.Args[0]), "…")
			return strings.ReplaceAll(text, "%%", "%")
		case name == "New" && len(expression.Args) == 1:
			return s.text(expression.Args[0])
		case name == "vmName":
			return `VM "…"`
		case name == "object" || name == "objectOf":
			return `base or component "…"`
		case name == "sentence":
			return theCause
		case name == "Guest":
			return " (what the agent says) "
		case name == "detail": // failure{…}.detail()
			if selector, ok := expression.Fun.(*ast.SelectorExpr); ok {
				if literal, ok := selector.X.(*ast.CompositeLit); ok {
					return s.detail(literal)
				}
			}
		}
	}
	return "…"
}

// detail returns what a failure that is a detail alone says.
func (s *source) detail(literal *ast.CompositeLit) string {
	for _, element := range literal.Elts {
		if pair, ok := element.(*ast.KeyValueExpr); ok {
			if name, ok := pair.Key.(*ast.Ident); ok && name.Name == "next" {
				return "The cause. " + s.text(pair.Value)
			}
		}
	}
	return "The cause."
}

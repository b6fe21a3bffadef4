package provider

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmGuest is the configuration of the guest, which a running VM takes on live. vm_guest_schema.go has its attributes.
type vmGuest struct {
	Files    types.Map    `tfsdk:"files"`
	Units    types.Map    `tfsdk:"units"`
	Users    types.Map    `tfsdk:"users"`
	Sysctl   types.Map    `tfsdk:"sysctl"`
	TimeZone types.String `tfsdk:"time_zone"`
	Locale   types.String `tfsdk:"locale"`
	Networks types.Map    `tfsdk:"networks"`
	Swap     sizeValue    `tfsdk:"swap"`
	// Drift is by path, or by the name of a unit, kernel parameter or account.
	Drift types.Map `tfsdk:"configuration_drift"`
}

var (
	_ vmBlock               = (*vmGuest)(nil)
	_ vmBlockWithValidation = (*vmGuest)(nil)
	_ vmBlockWithPlan       = (*vmGuest)(nil)
)

// guestFileModel is one value of the attribute files.
type guestFileModel struct {
	Content          types.String `tfsdk:"content"`
	ContentBase64    types.String `tfsdk:"content_base64"`
	ContentWO        types.String `tfsdk:"content_wo"`
	ContentWOVersion types.Int64  `tfsdk:"content_wo_version"`
	Mode             types.String `tfsdk:"mode"`
	Owner            types.String `tfsdk:"owner"`
	Group            types.String `tfsdk:"group"`
	Restart          types.List   `tfsdk:"restart"`
	Reload           types.List   `tfsdk:"reload"`
}

// unitModel is one value of the attribute units.
type unitModel struct {
	Content types.String `tfsdk:"content"`
	DropIns types.Map    `tfsdk:"drop_ins"`
	Enabled types.Bool   `tfsdk:"enabled"`
	Started types.Bool   `tfsdk:"started"`
}

// userModel is one value of the attribute users.
type userModel struct {
	UID            types.Int64  `tfsdk:"uid"`
	Home           types.String `tfsdk:"home"`
	Shell          types.String `tfsdk:"shell"`
	Groups         types.List   `tfsdk:"groups"`
	AuthorizedKeys types.List   `tfsdk:"ssh_authorized_keys"`
	Sudo           types.Bool   `tfsdk:"sudo"`
}

// Defaults of the attributes of a file and a user.
const (
	defaultMode       = "0644"
	defaultSecretMode = "0600"
	defaultOwner      = "root"
	defaultShell      = "/bin/bash"
	homes             = "/home/"
)

// document returns the configuration. What is not fully known is left out.
func (b *vmGuest) document(ctx context.Context) (*guestconfig.Document, diag.Diagnostics) {
	document, diags := guestconfig.New(), diag.Diagnostics{}
	document.Files = eachKnown(ctx, b.Files, &diags,
		func(name string, m guestFileModel) (guestconfig.File, error) { return m.file() })
	document.Units = eachKnown(ctx, b.Units, &diags,
		func(_ string, m unitModel) (guestconfig.Unit, error) { return m.unit(ctx) })
	document.Users = eachKnown(ctx, b.Users, &diags,
		func(name string, m userModel) (guestconfig.User, error) { return m.user(ctx, name) })
	document.Networks = eachKnown(ctx, b.Networks, &diags,
		func(_ string, m networkModel) (guestconfig.Network, error) { return m.network(ctx) })
	if len(b.Sysctl.Elements()) > 0 {
		document.Sysctl = map[string]string{}
	}
	for name, value := range b.Sysctl.Elements() {
		if text, ok := value.(types.String); ok && !unset(text) {
			document.Sysctl[name] = text.ValueString()
		}
	}
	if !unset(b.Swap) {
		document.Swap = b.Swap.Bytes()
	}
	document.TimeZone, document.Locale = b.TimeZone.ValueString(), b.Locale.ValueString()
	return document, diags
}

// elementError is an error of one element of a map. Its text quotes no value.
type elementError struct {
	attribute string
	err       error
}

func (e *elementError) Error() string { return e.attribute + ": " + e.err.Error() }

// eachKnown converts the elements of a map that are fully known.
func eachKnown[M, V any](ctx context.Context, elements types.Map, diags *diag.Diagnostics,
	convert func(name string, m M) (V, error)) map[string]V {
	if unset(elements) || len(elements.Elements()) == 0 {
		return nil
	}
	converted := map[string]V{}
	for _, name := range slices.Sorted(maps.Keys(elements.Elements())) {
		element, ok := elements.Elements()[name].(types.Object)
		if !ok || unset(element) {
			continue
		}
		raw, err := element.ToTerraformValue(ctx)
		if err != nil || !raw.IsFullyKnown() {
			continue
		}
		var model M
		d := element.As(ctx, &model, asIs)
		if diags.Append(d...); d.HasError() {
			continue
		}
		value, err := convert(name, model)
		if err != nil {
			diags.Append(failed(failure{do: "use", object: fmt.Sprintf("the element %q", name), err: err})...)
			continue
		}
		converted[name] = value
	}
	return converted
}

func (m guestFileModel) secret() bool { return !m.ContentWOVersion.IsNull() || !m.ContentWO.IsNull() }

// file is the file without a secret.
func (m guestFileModel) file() (guestconfig.File, error) {
	file := guestconfig.File{Owner: m.Owner.ValueString(), Group: m.Group.ValueString(), Secret: m.secret()}
	mode := m.Mode.ValueString()
	if mode == "" {
		mode = map[bool]string{true: defaultSecretMode, false: defaultMode}[file.Secret]
	}
	if file.Owner == "" {
		file.Owner = defaultOwner
	}
	if file.Group == "" {
		file.Group = defaultOwner
	}
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return file, &elementError{"mode", errors.New("it is not an octal number")}
	}
	file.Mode = uint32(bits)
	file.Restart, file.Reload = sortedTexts(m.Restart), sortedTexts(m.Reload)
	switch {
	case file.Secret:
		file.SecretVersion = m.ContentWOVersion.ValueInt64()
	case !m.ContentBase64.IsNull():
		if file.Content, err = base64.StdEncoding.DecodeString(m.ContentBase64.ValueString()); err != nil {
			return file, &elementError{"content_base64", errors.New("it is not base64 (RFC 4648, section 4)")}
		}
	default:
		file.Content = []byte(m.Content.ValueString())
	}
	if len(file.Content) == 0 {
		file.Content = nil
	}
	return file, nil
}

func (m unitModel) unit(ctx context.Context) (guestconfig.Unit, error) {
	unit := guestconfig.Unit{
		Content: m.Content.ValueStringPointer(), Enabled: m.Enabled.ValueBoolPointer(),
		Started: m.Started.ValueBoolPointer(),
	}
	if len(m.DropIns.Elements()) == 0 {
		return unit, nil
	}
	if diags := m.DropIns.ElementsAs(ctx, &unit.DropIns, false); diags.HasError() {
		return unit, diagError{diags[0]}
	}
	return unit, nil
}

func (m userModel) user(_ context.Context, name string) (guestconfig.User, error) {
	user := guestconfig.User{Home: m.Home.ValueString(), Shell: m.Shell.ValueString(), Groups: sortedTexts(m.Groups),
		Sudo: m.Sudo.ValueBool()}
	if user.Home == "" {
		user.Home = homes + name
	}
	if user.Shell == "" {
		user.Shell = defaultShell
	}
	if !m.UID.IsNull() {
		uid := uint32(m.UID.ValueInt64())
		user.UID = &uid
	}
	for i, value := range m.AuthorizedKeys.Elements() {
		text, ok := value.(types.String)
		if !ok {
			continue
		}
		key, err := authorizedKey(text.ValueString())
		if err != nil {
			return user, &elementError{fmt.Sprintf("ssh_authorized_keys[%d]", i), err}
		}
		user.AuthorizedKeys = append(user.AuthorizedKeys, key)
	}
	return user, nil
}

// sortedTexts are the elements of a list, sorted, each once; nil if there are none.
func sortedTexts(list types.List) (sorted []string) {
	for _, value := range list.Elements() {
		if text, ok := value.(types.String); ok {
			sorted = append(sorted, text.ValueString())
		}
	}
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

func (b *vmGuest) validate() (diags diag.Diagnostics) {
	ctx := context.Background()
	document, diags := b.document(ctx)
	for _, name := range slices.Sorted(maps.Keys(b.Files.Elements())) {
		file, ok := b.Files.Elements()[name].(types.Object)
		if !ok || unset(file) {
			continue
		}
		if err := oneContent(file.Attributes()); err != nil {
			diags.Append(failed(failure{do: "use", object: fmt.Sprintf("files[%q]", name), err: err,
				next: "Set exactly one of content, content_base64 and content_wo; content_wo needs content_wo_version, too."})...)
		}
		if _, known := document.Files[name]; !known {
			if err := guestconfig.CheckPath(name); err != nil {
				diags.Append(failed(failure{do: "use", object: fmt.Sprintf("files[%q]", name), err: err})...)
			}
		}
	}
	if diags.HasError() {
		return diags
	}
	for _, problem := range document.Check() {
		// This has no path: Terraform would print the lines at the path, and a literal there may be a secret.
		diags.Append(failed(failure{do: "use", object: guestconfig.Attribute(problem.At), err: problem.Err,
			next: "Change it in the configuration."})...)
	}
	if _, err := document.Encode(); err != nil {
		diags.Append(failed(failure{do: "use", object: "the configuration of the guest", err: err,
			next: "Put large files into a component or a base."})...)
	}
	return diags
}

// oneContent checks that a file has one content. Values may be unknown. In a plan, content_wo is null.
func oneContent(attributes map[string]attr.Value) error {
	if attributes["content"].IsUnknown() || attributes["content_base64"].IsUnknown() ||
		attributes["content_wo_version"].IsUnknown() {
		return nil
	}
	var set []string
	for _, name := range []string{"content", "content_base64", "content_wo_version"} {
		if !attributes[name].IsNull() {
			set = append(set, name)
		}
	}
	switch {
	case len(set) > 1:
		return fmt.Errorf("several contents are set: %s", strings.Join(set, ", "))
	case !attributes["content_wo"].IsNull() && attributes["content_wo_version"].IsNull():
		return errors.New(
			"content_wo is set and content_wo_version is not: Terraform does not keep a write-only value, so that its version tells that it changes")
	case len(set) == 0:
		return errors.New("no content is set")
	}
	return nil
}

func (b *vmGuest) toSpec(ctx context.Context, spec *vm.Spec) (diags diag.Diagnostics) {
	spec.Configuration, diags = b.document(ctx)
	return diags
}

// secrets adds the write-only values of a configuration to the specification of a plan, which does not have them.
func (b *vmGuest) secrets(ctx context.Context, spec *vm.Spec) (diags diag.Diagnostics) {
	for name, element := range b.Files.Elements() {
		object, ok := element.(types.Object)
		if !ok || unset(object) || spec.Configuration == nil || !spec.Configuration.Files[name].Secret {
			continue
		}
		text, ok := object.Attributes()["content_wo"].(types.String)
		if !ok || unset(text) {
			diags.Append(failed(failure{
				do: "use", object: fmt.Sprintf("files[%q]", name),
				err:  errors.New("content_wo_version is set and content_wo is not"),
				next: "Set content_wo, from an ephemeral resource or variable.",
			})...)
			continue
		}
		if spec.Secrets == nil {
			spec.Secrets = guestconfig.Secrets{}
		}
		spec.Secrets[name] = []byte(text.ValueString())
	}
	return diags
}

// drifted are the paths and units that the plan has shown to be changed in the guest.
func (b *vmGuest) drifted() []string { return slices.Sorted(maps.Keys(b.Drift.Elements())) }

func (b *vmGuest) fromVM(ctx context.Context, found *vm.VM) (diags diag.Diagnostics) {
	is := found.Spec.Configuration
	if found.Answered {
		drift := map[string]string{}
		for name, why := range found.Drift {
			// The name is sent back to the guest, so it must not be shortened. A name that no
			// configuration can have is left out.
			if len(drift) < 4*guestconfig.MaxEntries && isDrifted(name) {
				drift[name] = guestText(why)
			}
		}
		value, d := types.MapValueFrom(ctx, types.StringType, drift)
		diags.Append(d...)
		b.Drift = value
	} else if b.Drift.IsUnknown() {
		b.Drift = types.MapNull(types.StringType)
	}
	if is == nil { // nobody can be asked: state keeps what it said
		b.forgetUnknown()
		return diags
	}
	was, d := b.document(ctx)
	diags.Append(d...)
	b.Files = readMap(ctx, b.Files, fileType, was.Files, is.Files, &diags, newGuestFileModel)
	b.Units = readMap(ctx, b.Units, unitType, was.Units, is.Units, &diags, newUnitModel)
	b.Users = readMap(ctx, b.Users, userType, was.Users, is.Users, &diags, newUserModel)
	b.Networks = readMap(ctx, b.Networks, networkType, was.Networks, is.Networks, &diags, newNetworkModel)
	if b.Sysctl.IsUnknown() || !maps.Equal(was.Sysctl, is.Sysctl) {
		b.Sysctl = types.MapNull(types.StringType)
		if len(is.Sysctl) > 0 {
			value, d := types.MapValueFrom(ctx, types.StringType, is.Sysctl)
			diags.Append(d...)
			b.Sysctl = value
		}
	}
	if is.Swap == 0 {
		b.Swap = sizeValue{StringValue: types.StringNull()}
	} else if size := newSize(is.Swap); !b.Swap.same(size) {
		b.Swap = size
	}
	b.TimeZone, b.Locale = textOrNull(is.TimeZone), textOrNull(is.Locale)
	return diags
}

// forgetUnknown makes unknown values null.
func (b *vmGuest) forgetUnknown() {
	for to, null := range map[*types.Map]types.Map{
		&b.Files: types.MapNull(fileType), &b.Units: types.MapNull(unitType), &b.Users: types.MapNull(userType),
		&b.Networks: types.MapNull(networkType), &b.Sysctl: types.MapNull(types.StringType),
	} {
		if to.IsUnknown() {
			*to = null
		}
	}
	if b.Swap.IsUnknown() {
		b.Swap = sizeValue{StringValue: types.StringNull()}
	}
	for _, to := range []*types.String{&b.TimeZone, &b.Locale} {
		if to.IsUnknown() {
			*to = types.StringNull()
		}
	}
}

func textOrNull(text string) types.String {
	if text == "" {
		return types.StringNull()
	}
	return types.StringValue(text)
}

// readMap returns the elements that a guest has. An element that means the same keeps its spelling.
func readMap[V, M any](ctx context.Context, before types.Map, element attr.Type, was, is map[string]V,
	diags *diag.Diagnostics, convert func(name string, v V) M) types.Map {
	if len(is) == 0 {
		if unset(before) || len(before.Elements()) > 0 {
			return types.MapNull(element)
		}
		return before
	}
	values := map[string]attr.Value{}
	for name, value := range is {
		if old, known := was[name]; known && sameJSON(old, value) {
			values[name] = before.Elements()[name]
			continue
		}
		objectType, ok := element.(types.ObjectType)
		if !ok {
			continue
		}
		values[name] = object(ctx, objectType.AttrTypes, convert(name, value), diags)
	}
	read, d := types.MapValue(element, values)
	diags.Append(d...)
	return read
}

func sameJSON(a, b any) bool {
	one, err := json.Marshal(a)
	other, errOther := json.Marshal(b)
	return err == nil && errOther == nil && bytes.Equal(one, other)
}

func newGuestFileModel(_ string, f guestconfig.File) guestFileModel {
	model := guestFileModel{
		Mode: types.StringValue(fmt.Sprintf("%04o", f.Mode)), Owner: types.StringValue(f.Owner),
		Group:   types.StringValue(f.Group),
		Restart: listOrNull(f.Restart), Reload: listOrNull(f.Reload),
	}
	switch {
	case f.Secret:
		model.ContentWOVersion = types.Int64Value(f.SecretVersion)
	case utf8.Valid(f.Content):
		model.Content = types.StringValue(string(f.Content))
	default:
		model.ContentBase64 = types.StringValue(base64.StdEncoding.EncodeToString(f.Content))
	}
	return model
}

func newUnitModel(_ string, u guestconfig.Unit) unitModel {
	model := unitModel{
		Content: types.StringPointerValue(u.Content), DropIns: types.MapNull(types.StringType),
		Enabled: types.BoolPointerValue(u.Enabled), Started: types.BoolPointerValue(u.Started),
	}
	if len(u.DropIns) > 0 {
		values := map[string]attr.Value{}
		for name, text := range u.DropIns {
			values[name] = types.StringValue(text)
		}
		model.DropIns = types.MapValueMust(types.StringType, values)
	}
	return model
}

func newUserModel(_ string, u guestconfig.User) userModel {
	model := userModel{
		Home: types.StringValue(u.Home), Shell: types.StringValue(u.Shell), Groups: listOrNull(u.Groups),
		AuthorizedKeys: listOrNull(u.AuthorizedKeys), Sudo: types.BoolValue(u.Sudo),
	}
	if u.UID != nil {
		model.UID = types.Int64Value(int64(*u.UID))
	}
	return model
}

// listOrNull is a list of texts, or null if there are none.
func listOrNull(from []string) types.List {
	if len(from) == 0 {
		return types.ListNull(types.StringType)
	}
	values := make([]attr.Value, len(from))
	for i, text := range from {
		values[i] = types.StringValue(text)
	}
	return types.ListValueMust(types.StringType, values)
}

// completePlan keeps the spelling in state of an element that gives the guest the same.
func (b *vmGuest) completePlan(_, state *vmModel) {
	if state == nil {
		return
	}
	if b.Swap.same(state.Swap) {
		b.Swap = state.Swap
	}
	ctx := context.Background()
	want, diags := b.document(ctx)
	have, d := state.vmGuest.document(ctx)
	if diags.HasError() || d.HasError() {
		return // the validation says it
	}
	b.Files = keepSpelling(b.Files, state.Files, want.Files, have.Files)
	b.Users = keepSpelling(b.Users, state.Users, want.Users, have.Users)
	b.Networks = keepSpelling(b.Networks, state.Networks, want.Networks, have.Networks)
}

// keepSpelling returns the elements of a plan, with the attributes of state in those that mean the same.
// Terraform accepts the value in state for an attribute that is configured, and none for one that is not.
func keepSpelling[V any](plan, state types.Map, want, have map[string]V) types.Map {
	elements := maps.Clone(plan.Elements())
	for name, value := range want {
		planned, ok := elements[name].(types.Object)
		was, okToo := state.Elements()[name].(types.Object)
		if old, known := have[name]; !ok || !okToo || !known || !sameJSON(old, value) {
			continue
		}
		attributes, kept := planned.Attributes(), was.Attributes()
		for attribute, one := range attributes {
			if !unset(one) && !unset(kept[attribute]) {
				attributes[attribute] = kept[attribute]
			}
		}
		elements[name] = types.ObjectValueMust(planned.AttributeTypes(context.Background()), attributes)
	}
	if plan.IsNull() || plan.IsUnknown() {
		return plan
	}
	return types.MapValueMust(plan.ElementType(context.Background()), elements)
}

func (b *vmGuest) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmGuest, vmNames().configurable) || len(state.Drift.Elements()) > 0 {
		change.configuration = true
	}
}

// isDrifted reports whether a name can come from a configuration: that of a file, a unit, a kernel
// parameter or an account, or of a file that is made for one of these.
func isDrifted(name string) bool {
	for _, check := range []func(string) error{guestconfig.CheckPath, guestconfig.CheckUnit, guestconfig.CheckSysctl,
		guestconfig.CheckAccount} {
		if check(name) == nil {
			return true
		}
	}
	// A home may be below /var/opt, where no file can be configured.
	_, keys := strings.CutSuffix(name, "/.ssh/authorized_keys")
	return name == guestconfig.LocalTimeFile || name == guestconfig.LocaleFile ||
		keys && guestconfig.CheckPath("/srv"+name) == nil
}

// keyOf is the last key of a map in a path; "" if there is none.
func keyOf(at path.Path) string {
	steps := at.Steps()
	for _, step := range slices.Backward(steps) {
		if key, ok := step.(path.PathStepElementKeyString); ok {
			return string(key)
		}
	}
	return ""
}

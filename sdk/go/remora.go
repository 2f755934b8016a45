// Package remora is for authors of remora's policies: each of its packages authorize, selection, schedule and retention is an
// interface of `wit/policy/0.1.0`, where what each call means, its units and its limits are told.
//
// A policy has no clock, no random numbers, no files and no network, and starts no goroutine that outlives a call.
package remora

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// Pair is a fact or a label.
type Pair struct{ Key, Value string }

// FieldError is a setting that a policy does not take.
type FieldError struct {
	// Path says where in the settings: a JSON Pointer such as `/rules/0`; empty for all of them.
	Path string
	// Message says what is wrong, and what would be right.
	Message string
}

func (e FieldError) Error() string { return e.Path + ": " + e.Message }

// Invalid is what a policy says of a setting that it does not take; of several, errors.Join of them.
func Invalid(path, message string) error { return FieldError{Path: path, Message: message} }

// Vm is a virtual machine.
type Vm struct {
	// Name is what the hypervisor or the cluster knows it by. Any text; unique within its namespace.
	Name string
	// Namespace is that of Kubernetes; empty on a plain host.
	Namespace string
	// Uid tells it from another one that once had its name; empty if it has none.
	Uid string
	// Labels are by key.
	Labels []Pair
	// Details are facts that are none of the above. Known today: none.
	Details []Pair
}

// Label is the value of a label, empty if there is none.
func (vm *Vm) Label(key string) string {
	for _, label := range vm.Labels {
		if label.Key == key {
			return label.Value
		}
	}
	return ""
}

// Configure reads the settings, makes a policy of them with what was registered, and tells what is wrong with each: the
// errors of `create` are those of Invalid. The packages call it.
func Configure[S, P any](settings string, create func(S) (P, error)) (P, []FieldError) {
	var read S
	var none P
	if !strings.HasPrefix(settings, "{") {
		return none, []FieldError{{"", "a mapping is wanted"}}
	}
	decoder := json.NewDecoder(strings.NewReader(settings))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&read); err != nil {
		return none, []FieldError{unread(err)}
	}
	if _, err := decoder.Token(); err != io.EOF {
		return none, []FieldError{{"", "there is something behind the settings"}}
	}
	made, err := create(read)
	return made, fields(err)
}

func unread(err error) FieldError {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return FieldError{"/" + strings.ReplaceAll(kind.Field, ".", "/"), "it is a " + kind.Value + ", and not a " + kind.Type.String()}
	}
	if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
		return FieldError{"/" + strings.Trim(name, `"`), "there is no such setting"}
	}
	return FieldError{"", err.Error()}
}

func fields(err error) []FieldError {
	if err == nil {
		return nil
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		var all []FieldError
		for _, one := range several.Unwrap() {
			all = append(all, fields(one)...)
		}
		return all
	}
	var field FieldError
	if errors.As(err, &field) {
		return []FieldError{field}
	}
	return []FieldError{{"", err.Error()}}
}

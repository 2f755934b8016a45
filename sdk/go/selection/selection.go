// Package selection is for policies that say which VMs a backup policy is for: see `wit/policy/0.1.0/select.wit`.
package selection

import (
	"remora.dev/sdk"
	"remora.dev/sdk/internal/abi"
)

// Verdict is what the policy says of one VM.
type Verdict struct {
	// Selected says whether the backup policy is for it.
	Selected bool
	// Reason says why: one line.
	Reason string
}

// Policy selects.
type Policy interface {
	Select(vm *remora.Vm) Verdict
}

var configure func(settings string) (Policy, []remora.FieldError)
var policy Policy

// Register makes the component of a policy: call it from an `init`. Settings are read into a value as encoding/json does;
// unknown fields are refused.
func Register[S any](create func(settings S) (Policy, error)) {
	configure = func(settings string) (Policy, []remora.FieldError) { return remora.Configure(settings, create) }
}

//go:wasmexport remora:policy/select@0.1.0#configure
func wasmConfigure(at, length uint32) uint32 {
	return abi.Configured(at, length, configure, &policy)
}

//go:wasmexport remora:policy/select@0.1.0#select
func wasmSelect(at, length uint32) uint32 {
	return abi.Each(at, length, policy.Select)
}

//go:wasmexport cabi_post_remora:policy/select@0.1.0#configure
func wasmConfigureDone(uint32) { abi.Done() }

//go:wasmexport cabi_post_remora:policy/select@0.1.0#select
func wasmSelectDone(uint32) { abi.Done() }

// Package schedule is for policies that say when the next backup of a VM is due: see `wit/policy/0.1.0/schedule.wit`. Times
// are seconds since 1970 in UTC.
package schedule

import (
	"remora.dev/sdk"
	"remora.dev/sdk/internal/abi"
)

// Run is a backup that made a point.
type Run struct {
	// Time is the instant that its point shows.
	Time int64
	// Changed is how many bytes it read, Size what the disks have together, Seconds how long it took.
	Changed, Size, Seconds uint64
}

// Request is the question when the next backup of a VM is due.
type Request struct {
	Vm  remora.Vm
	Now int64
	// After is the end of what is settled: the question is about the first occasion after it. Never after Now.
	After int64
	// Seed stays the same for this VM under this policy, and differs from VM to VM.
	Seed uint64
	// Runs are the newest ones, newest first; at most 32.
	Runs []Run
	// Details are facts that are none of the above. Known today: none.
	Details []remora.Pair
}

// Answer says when to start.
type Answer struct {
	// Start is at once if it is not after Now; nil if there is no next occasion at all.
	Start *int64
	// Reason says which occasion this is, and why it is then.
	Reason string
}

// Policy schedules.
type Policy interface {
	Next(request *Request) Answer
}

var configure func(settings string) (Policy, []remora.FieldError)
var policy Policy

// Register makes the component of a policy: call it from an `init`. Settings are read into a value as encoding/json does;
// unknown fields are refused.
func Register[S any](create func(settings S) (Policy, error)) {
	configure = func(settings string) (Policy, []remora.FieldError) { return remora.Configure(settings, create) }
}

//go:wasmexport remora:policy/schedule@0.1.0#configure
func wasmConfigure(at, length uint32) uint32 {
	return abi.Configured(at, length, configure, &policy)
}

//go:wasmexport remora:policy/schedule@0.1.0#next
func wasmNext(at, length uint32) uint32 {
	return abi.Each(at, length, policy.Next)
}

//go:wasmexport cabi_post_remora:policy/schedule@0.1.0#configure
func wasmConfigureDone(uint32) { abi.Done() }

//go:wasmexport cabi_post_remora:policy/schedule@0.1.0#next
func wasmNextDone(uint32) { abi.Done() }

// Package retention is for policies that say which points of a VM are kept: see `wit/policy/0.1.0/retention.wit`. Times are
// seconds since 1970 in UTC.
package retention

import (
	"remora.dev/sdk"
	"remora.dev/sdk/internal/abi"
)

// Point is a recovery point.
type Point struct {
	Id string
	// Time is the instant that it shows. A later point may have an earlier time.
	Time int64
	// HeldUntil says until when somebody holds it, if anybody does.
	HeldUntil *int64
	// Details are facts that are none of the above. Known today: none.
	Details []remora.Pair
}

// Request is the question what becomes of the points of a VM.
type Request struct {
	Vm  remora.Vm
	Now int64
	// Points are all that can be read, in the order in which they were made.
	Points []Point
	// Details are facts that are none of the above. Known today: none.
	Details []remora.Pair
}

// Fate is what becomes of a point.
type Fate uint8

const (
	// Keep: it stays.
	Keep Fate = iota
	// Drop: it may go.
	Drop
)

// Verdict is what the policy says of one point.
type Verdict struct {
	Fate   Fate
	Reason string
}

// Policy judges each point of a request, in their order.
type Policy interface {
	Judge(request *Request) []Verdict
}

var configure func(settings string) (Policy, []remora.FieldError)
var policy Policy

// Register makes the component of a policy: call it from an `init`. Settings are read into a value as encoding/json does;
// unknown fields are refused.
func Register[S any](create func(settings S) (Policy, error)) {
	configure = func(settings string) (Policy, []remora.FieldError) { return remora.Configure(settings, create) }
}

//go:wasmexport remora:policy/retention@0.1.0#configure
func wasmConfigure(at, length uint32) uint32 {
	return abi.Configured(at, length, configure, &policy)
}

// The record has 15 flat values, one less than what would be passed by its address.
//
//go:wasmexport remora:policy/retention@0.1.0#judge
func wasmJudge(name, nameLen, namespace, namespaceLen, uid, uidLen, labels, labelsLen, vmDetails, vmDetailsLen uint32, now int64,
	points, pointsLen, details, detailsLen uint32) uint32 {
	request := Request{
		Vm: remora.Vm{
			Name:      abi.String(name, nameLen),
			Namespace: abi.String(namespace, namespaceLen),
			Uid:       abi.String(uid, uidLen),
			Labels:    abi.List[remora.Pair](labels, labelsLen),
			Details:   abi.List[remora.Pair](vmDetails, vmDetailsLen),
		},
		Now:     now,
		Points:  abi.List[Point](points, pointsLen),
		Details: abi.List[remora.Pair](details, detailsLen),
	}
	abi.Taken()
	return abi.Return(policy.Judge(&request))
}

//go:wasmexport cabi_post_remora:policy/retention@0.1.0#configure
func wasmConfigureDone(uint32) { abi.Done() }

//go:wasmexport cabi_post_remora:policy/retention@0.1.0#judge
func wasmJudgeDone(uint32) { abi.Done() }

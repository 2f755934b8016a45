// Package authorize is for policies that say who may do what with the files of a point: see `wit/policy/0.1.0/authorize.wit`.
package authorize

import (
	"remora.dev/sdk"
	"remora.dev/sdk/internal/abi"
)

// Subject is who asks. The host has made sure of it.
type Subject struct {
	// User is the user's name, as the one who vouches for it spells it.
	User string
	// Groups are those that the user is in.
	Groups []string
	// Grants are what the cluster lets the user do with this VM, such as `get virtualmachines`.
	Grants []string
}

// Approval is somebody else's consent to this very request.
type Approval struct {
	// User is who consents. Never trust that this is another person than the subject: compare.
	User string
	// Groups are those that this user is in.
	Groups []string
	// Granted and Expires say since when and until when, in seconds since 1970.
	Granted, Expires int64
}

// Request is what somebody wants to do.
type Request struct {
	Subject Subject
	// Action is `list`, `stat` or `read`; a policy that does not know one denies.
	Action string
	Vm     remora.Vm
	// Point is its id, PointTime the instant that it shows.
	Point     string
	PointTime int64
	// Path is absolute, its links are resolved. Any bytes but NUL: not always UTF-8.
	Path []byte
	// Now is in seconds since 1970.
	Now       int64
	Approvals []Approval
	// Details are facts that are none of the above. Known today: none.
	Details []remora.Pair
}

// Effect is what a policy says.
type Effect uint8

const (
	// Allow: it may be done, if no other policy denies it.
	Allow Effect = iota
	// Deny: it may not be done, whatever other policies say.
	Deny
	// Abstain: this policy has nothing to say of it.
	Abstain
)

// Obligation is what must be done along with an allowed request.
type Obligation struct {
	Id     string
	Params []remora.Pair
	// Required says whether a host that does not know it must deny instead.
	Required bool
}

// Decision is on one request.
type Decision struct {
	Effect Effect
	// Code is a short name for programs, such as `not-owner`: lower case, digits and dashes.
	Code string
	// Reason is for the log: one line.
	Reason      string
	Obligations []Obligation
	// CacheTtlMs says for how long the host may give the same answer without asking; 0 for never.
	CacheTtlMs uint32
}

// Policy decides.
type Policy interface {
	Authorize(request *Request) Decision
}

var configure func(settings string) (Policy, []remora.FieldError)
var policy Policy

// Register makes the component of a policy: call it from an `init`. Settings are read into a value as encoding/json does;
// unknown fields are refused.
func Register[S any](create func(settings S) (Policy, error)) {
	configure = func(settings string) (Policy, []remora.FieldError) { return remora.Configure(settings, create) }
}

//go:wasmexport remora:policy/authorize@0.1.0#configure
func wasmConfigure(at, length uint32) uint32 {
	return abi.Configured(at, length, configure, &policy)
}

//go:wasmexport remora:policy/authorize@0.1.0#authorize
func wasmAuthorize(at, length uint32) uint32 {
	return abi.Each(at, length, policy.Authorize)
}

//go:wasmexport cabi_post_remora:policy/authorize@0.1.0#configure
func wasmConfigureDone(uint32) { abi.Done() }

//go:wasmexport cabi_post_remora:policy/authorize@0.1.0#authorize
func wasmAuthorizeDone(uint32) { abi.Done() }

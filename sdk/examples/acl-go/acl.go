// A list of rules says who may do what below which folders: an example of a policy. The same in all languages.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"remora.dev/sdk"
	"remora.dev/sdk/authorize"
)

// Settings: the first rule that fits decides.
type Settings struct {
	Rules []Rule `json:"rules"`
}

// Rule fits requests of these users and groups for what lies below a folder.
type Rule struct {
	Effect  string   `json:"effect"`
	Users   []string `json:"users"`
	Groups  []string `json:"groups"`
	Actions []string `json:"actions"`
	Below   string   `json:"below"`
}

var known = []string{"list", "stat", "read"}

func check(settings Settings) (authorize.Policy, error) {
	var wrong []error
	for i, rule := range settings.Rules {
		if rule.Effect != "allow" && rule.Effect != "deny" {
			wrong = append(wrong, remora.Invalid(fmt.Sprintf("/rules/%d/effect", i), "allow or deny is wanted"))
		}
		if !strings.HasPrefix(rule.Below, "/") {
			wrong = append(wrong, remora.Invalid(fmt.Sprintf("/rules/%d/below", i), "an absolute path is wanted"))
		}
	}
	return settings, errors.Join(wrong...)
}

func (s Settings) Authorize(request *authorize.Request) authorize.Decision {
	if !slices.Contains(known, request.Action) {
		return authorize.Decision{Effect: authorize.Deny, Code: "unknown-action", Reason: "the action is not known"}
	}
	for i, rule := range s.Rules {
		if !rule.fits(request) {
			continue
		}
		reason := fmt.Sprintf("rule %d is for %s", i+1, rule.Below)
		if rule.Effect == "allow" {
			return authorize.Decision{Effect: authorize.Allow, Code: "allowed", Reason: reason}
		}
		return authorize.Decision{Effect: authorize.Deny, Code: "denied", Reason: reason}
	}
	return authorize.Decision{Effect: authorize.Abstain, Code: "no-rule", Reason: "no rule fits"}
}

func (rule *Rule) fits(request *authorize.Request) bool {
	inGroup := func(group string) bool { return slices.Contains(rule.Groups, group) }
	who := slices.Contains(rule.Users, request.Subject.User) || slices.ContainsFunc(request.Subject.Groups, inGroup)
	what := len(rule.Actions) == 0 || slices.Contains(rule.Actions, request.Action)
	folder := []byte(strings.TrimRight(rule.Below, "/"))
	rest, below := bytes.CutPrefix(request.Path, folder)
	return who && what && below && (len(rest) == 0 || rest[0] == '/')
}

func init() { authorize.Register(check) }

func main() {}

// Selects the VMs whose names begin in some way.
package main

import (
	"fmt"
	"strings"

	"remora.dev/sdk"
	"remora.dev/sdk/selection"
)

// Settings are what the policy's document has under `settings`.
type Settings struct {
	Prefix string `json:"prefix"`
}

func create(settings Settings) (selection.Policy, error) {
	if settings.Prefix == "" {
		return nil, remora.Invalid("/prefix", "it is empty")
	}
	return settings, nil
}

// Select says whether the backup policy is for this VM.
func (s Settings) Select(vm *remora.Vm) selection.Verdict {
	begins := "does not begin"
	selected := strings.HasPrefix(vm.Name, s.Prefix)
	if selected {
		begins = "begins"
	}
	return selection.Verdict{Selected: selected, Reason: fmt.Sprintf("the name %s with %s", begins, s.Prefix)}
}

func init() { selection.Register(create) }

func main() {}

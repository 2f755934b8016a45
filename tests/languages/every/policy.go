package main

import (
	"fmt"
	"strings"

	"remora.dev/sdk"
	"remora.dev/sdk/retention"
	"remora.dev/sdk/schedule"
	"remora.dev/sdk/selection"
)

type prefix struct {
	Prefix string `json:"prefix"`
}

func (p prefix) Select(vm *remora.Vm) selection.Verdict {
	return selection.Verdict{Selected: strings.HasPrefix(vm.Name, p.Prefix), Reason: p.Prefix}
}

type every struct {
	Every int64 `json:"every"`
}

func (e every) Next(request *schedule.Request) schedule.Answer {
	if request.Vm.Label("backup") == "never" {
		return schedule.Answer{Reason: "never"}
	}
	start := request.After + e.Every + int64(request.Seed%16)
	for _, run := range request.Runs {
		if run.Changed >= 1<<40 && run.Size == 1<<41 && run.Seconds == 60 {
			start = request.After + 60
		}
	}
	return schedule.Answer{Start: &start, Reason: "then"}
}

type last struct {
	Last int `json:"last"`
}

func (l last) Judge(request *retention.Request) []retention.Verdict {
	verdicts := make([]retention.Verdict, len(request.Points))
	for i, point := range request.Points {
		verdicts[i].Reason = fmt.Sprint(point.Time)
		if i+l.Last < len(request.Points) {
			verdicts[i].Fate = retention.Drop
		}
	}
	return verdicts
}

func init() {
	selection.Register(func(p prefix) (selection.Policy, error) { return p, nil })
	schedule.Register(func(e every) (schedule.Policy, error) { return e, nil })
	retention.Register(func(l last) (retention.Policy, error) { return l, nil })
}

func main() {}

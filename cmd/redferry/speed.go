package main

import (
	"errors"
	"fmt"
	"strconv"

	"redferry/applier"
	"redferry/replica"
	"redferry/replica/admin"
)

// validPipelines tells whether there can be so many pipelines for the snapshot; pipelinesMust says which.
func validPipelines(n int) bool { return n >= 1 && n <= applier.MaxPipelines }

var pipelinesMust = fmt.Sprintf("1 to %d", applier.MaxPipelines)

// speedSettings are the flags that say how much of the target a run takes.
func speedSettings(gate *replica.Gate, pipelines *applier.Pipelines) []admin.Setting {
	return []admin.Setting{
		{Name: "max-rate", Get: func() string { return strconv.FormatInt(gate.Rate(), 10) }, Set: func(text string) error {
			var rate byteSize
			err := rate.UnmarshalText([]byte(text))
			if err == nil {
				gate.SetRate(int64(rate))
			}
			return err
		}},
		{Name: "snapshot-pipelines", Get: func() string { return strconv.Itoa(pipelines.Get()) }, Set: func(text string) error {
			n, err := strconv.Atoi(text)
			if err != nil || !validPipelines(n) {
				return errors.New("it must be " + pipelinesMust)
			}
			pipelines.Set(n)
			return nil
		}},
	}
}

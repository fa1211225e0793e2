package main

import (
	"testing"
)

// The demo is the first thing that a new user runs, so it is run here as it is, in both forms.
func TestDemo(t *testing.T) {
	for name, onS3 := range map[string]bool{"directory": false, "s3": true} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), onS3, t.Output()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

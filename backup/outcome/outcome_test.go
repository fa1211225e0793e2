package outcome

import (
	"testing"
)

func TestReasonsOfRecoveriesThatMetNoTarget(t *testing.T) {
	for reason, met := range map[string]bool{"no recovery target specified": false, "before transaction 0": false, "after transaction 10": true, "before LSN 0/0": false,
		"after LSN 0/0A": true, `at restore point ""`: false, `at restore point "x"`: true, "before 2000-01-01 00:00:00+00": false, "before 1999-12-31 19:00:00-05": false,
		"before 2026-01-01 00:00:00+00": true, "reached consistency": true} {
		if metNone(reason) == met {
			t.Errorf("%q: met a target: %v", reason, !met)
		}
	}
}

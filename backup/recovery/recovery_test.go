package recovery

import (
	"strings"
	"testing"
)

func TestRecoveryCheck(t *testing.T) {
	for _, r := range []Recovery{
		{TargetXID: 5, TargetLSN: 5}, {TargetImmediate: true, TargetName: "x"}, {Exclusive: true}, {Exclusive: true, TargetName: "x"},
		{Standby: true, TargetXID: 5}, {PrimaryConnInfo: "x"}, {NoSettings: true, TargetXID: 5}, {TargetName: strings.Repeat("x", 64)},
		{TargetName: "a\nb = c"}, {Standby: true, PrimaryConnInfo: "host=a\nport"}, {Timeline: "0x1"}, {Timeline: "0"}, {Timeline: "newest"},
	} {
		if err := r.Check(); err == nil {
			t.Errorf("%+v passes", r)
		}
	}
	for _, r := range []Recovery{{}, {TargetXID: 5, Exclusive: true}, {Timeline: "latest"}, {Standby: true, PrimaryConnInfo: "x"}, {NoSettings: true, KeepArchiving: true}} {
		if err := r.Check(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

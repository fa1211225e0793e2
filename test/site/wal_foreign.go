package site

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

// Refused sees to it that a command's WAL is refused as another cluster's, and that nothing is stored.
func (r *WalRig) Refused(t testing.TB, st Store, args ...string) {
	t.Helper()
	before := Tree(t, st.Directory)
	o := r.Run(t, append([]string{"--log-format=json"}, args...)...)
	if f := o.Failure(); o.Code != ExitConflict || f.Kind != "wrong-cluster" || !f.Names(fmt.Sprint(r.Sysid)) {
		t.Errorf("%s: %v", strings.Join(args, " "), o)
	}
	if after := Tree(t, st.Directory); !maps.Equal(before, after) {
		t.Errorf("%s: the repository changed: %v", strings.Join(args, " "), Differences(before, after))
	}
}

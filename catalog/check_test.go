package catalog

import (
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/mem"
)

// A record that nobody could read would end the log for all: it is not written.
func TestUnreadableRecordIsNotWritten(t *testing.T) {
	store := mem.New()
	s := add(t, store, begin("a"))
	for name, r := range map[string]Record{
		"a negative part": {Type: "delete", Delete: &Delete{Parts: map[string]Ranges{"a": {{-1, -1}}}}},
	} {
		_, err := New(store, "host/8/test", clock()).Append(t.Context(), s, func(*State) (Record, error) { return r, nil })
		if err == nil || !strings.Contains(err.Error(), "nothing was written") {
			t.Errorf("%s: %v", name, err)
		}
		if s := load(t, store); s.N != 1 || len(s.Problems) > 0 {
			t.Errorf("%s: the log has %d records and problems %q", name, s.N, s.Problems)
		}
	}
}

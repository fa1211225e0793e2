package receive

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

const sysid = 7710474189093401805

// The receiver goes on where the archive ends, by the server's segment size, whatever of the archive can be read.
func TestSurveyOfDamaged(t *testing.T) {
	s := mem.New()
	for _, name := range []string{"000000010000000500000001", "000000010000000500000002"} {
		if err := s.Put(t.Context(), object.Key(sysid, name), strings.NewReader("nonsense"), 8); err != nil {
			t.Fatal(err)
		}
	}
	r := &receiver{Config: Config{Store: s, Log: slog.New(slog.DiscardHandler)}, size: 64 << 20, next: map[segment.Timeline]uint64{}, later: map[segment.Timeline][]uint64{}}
	if err := r.survey(t.Context(), sysid); err != nil {
		t.Fatal(err)
	}
	next := segment.Segment{Timeline: 1, No: r.next[1]}
	if got := next.Name(r.size); got != "000000010000000500000003" {
		t.Errorf("goes on with %s at %s", got, next.Start(r.size))
	}
}

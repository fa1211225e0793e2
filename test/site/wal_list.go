package site

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

type window struct {
	Timeline uint32
	From, To time.Time
	LastWAL  string `json:"last_wal"`
	Backups  []string
	Why      string `json:"ends_because"`
}

func (s *Site) Windows(t testing.TB) (w []window) {
	t.Helper()
	Must(t, json.Unmarshal([]byte(s.Must(t, "pitr-windows", "--json").Out), &w))
	return w
}

// DamagedEnd damages the last segments, and one that the second backup needs: windows end before them.
func (s *Site) DamagedEnd(t testing.TB, full []string, first, second string) {
	t.Helper()
	saved := map[string][]byte{}
	damage := func(object string) string {
		saved[object] = ReadFile(t, object)
		PutFile(t, object, Flip(saved[object], len(saved[object])/2))
		return strings.TrimSuffix(filepath.Base(object), ".zst")
	}
	whole := s.Windows(t)
	name := damage(full[len(full)-1])
	if w := s.Windows(t); len(w) != 1 || w[0].Why != name+" is damaged" || w[0].LastWAL != strings.TrimSuffix(filepath.Base(full[len(full)-2]), ".zst") || len(w[0].Backups) != 2 || w[0].To.After(whole[0].To) {
		t.Errorf("the last segment is damaged: %+v", w)
	}
	for i := len(full) - 2; name > s.List(t)[1].LastWAL; i-- {
		name = damage(full[i])
	}
	if w := s.Windows(t); len(w) != 1 || w[0].Why != name+" is damaged" || len(w[0].Backups) != 1 || w[0].Backups[0] != first {
		t.Errorf("backup %s needs %s, which is damaged: %+v", second, name, w)
	}
	for object, data := range saved {
		PutFile(t, object, data)
	}
}

// ProveWindow restores to the very end of a window, and not to a microsecond later.
func (s *Site) ProveWindow(t testing.TB, w window) {
	t.Helper()
	to := func(at time.Time) string { return "--target-time=" + at.UTC().Format("2006-01-02 15:04:05.999999+00") }
	c := s.Spawn(t, s.Fetch(t, to(w.To), w.Backups[0]))
	if got := c.SQL(t, `SELECT count(*) > 0 FROM x`); got != "t" {
		t.Errorf("at the end of the window there is nothing")
	}
	c.Stop(t, "immediate")
	target := filepath.Join(testenv.Dir(t), "data")
	if o := s.Run(t, "backup-fetch", target, to(w.To.Add(time.Microsecond)), w.Backups[0]); o.Code != 0 {
		return // seen before anything was fetched
	}
	later, err := pgtest.Attach(target, 15, "-c", "archive_mode=off")
	Must(t, err)
	defer later.Close()
	if err := later.Launch(t.Context()); err == nil {
		t.Error("the server reaches a time after the window")
	}
}

package site

import (
	"fmt"
	"testing"
	"time"
)

// Moment is a time that can be restored, and what the database held then.
type Moment struct {
	At       time.Time
	timeline int
	mark     string
}

// Mark commits a row of its own and tells when that was.
func (s *Site) Mark(t testing.TB, n, timeline int) Moment {
	t.Helper()
	s.Exec(t, fmt.Sprintf(`INSERT INTO marks VALUES (%d)`, n))
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", s.SQL(t, `SET timezone = 'UTC'; SELECT clock_timestamp()`))
	if err != nil {
		t.Fatal(err)
	}
	return Moment{at, timeline, fmt.Sprint(n)}
}

// Restores recovers to a window and looks whether it is that one.
func (s *Site) Restores(t testing.TB, w Moment) {
	t.Helper()
	dir := s.Fetch(t, "--target-time", w.At.Format("2006-01-02 15:04:05.999999-07"), "--target-timeline", fmt.Sprint(w.timeline), "--target-action=promote")
	c := s.Spawn(t, dir, NoArchiving...)
	if got := c.SQL(t, `SELECT max(n) FROM marks`); got != w.mark {
		t.Errorf("restored to %s on timeline %d the database has mark %s, want %s", w.At, w.timeline, got, w.mark)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/walstore/segment"
)

// The record of a shutdown is found wherever it lies: in a page, across pages, and across segments. PostgreSQL's own
// pg_controldata and pg_waldump know the same place.
func TestShutdownRecord(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{WALSegMB: 1, Conf: []string{"wal_level = minimal", "max_wal_senders = 0", "autovacuum = off"}})
	var inPage, acrossPages, acrossSegments bool
	position := func() int {
		var at int
		if _, err := fmt.Sscan(c.SQL(t, `SELECT (pg_current_wal_insert_lsn() - '0/0') % 1048576`), &at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	emit := func(n int) { c.SQL(t, `SELECT pg_logical_emit_message(false, '', repeat('x', $1))`, n) }
	for _, goal := range []int{0, 8192, 1048576} { // its start is to be a bit before a multiple of it
		for range 20 {
			for goal > 0 {
				left := goal - position()%goal // a message takes some 50 bytes more than its text, and 24 in each further page
				if left < 100 {
					break
				}
				emit(max(left-140-24*(left/8192), 0))
			}
			c.Stop(t, "fast")
			s, err := OpenStopped(c.Data)
			if err != nil {
				t.Fatal(err)
			}
			seg := segment.At(1, s.shutdown.Checkpoint, 1<<20)
			switch w := s.shutdown; {
			case len(w.WAL) == 2:
				acrossSegments = true
			case w.Checkpoint/8192 != (w.End-1)/8192:
				acrossPages = true
			default:
				inPage = true
			}
			out := pgtest.Run(t, c.Bin("pg_waldump"), "-p", filepath.Join(c.Data, "pg_wal"), "-s", s.shutdown.Checkpoint.String(), "-e", s.shutdown.End.String())
			if strings.Count(out, "CHECKPOINT_SHUTDOWN") != 1 || strings.Count(out, "rmgr:") != 1 || s.shutdown.WAL[0].Name != seg.Name(1<<20) {
				t.Errorf("%+v: pg_waldump says %s", s.shutdown, out)
			}
			c.Start(t)
			if goal == 0 || goal == 8192 && acrossPages || acrossSegments {
				break
			}
		}
	}
	if !inPage || !acrossPages || !acrossSegments {
		t.Errorf("in a page: %v, across pages: %v, across segments: %v", inPage, acrossPages, acrossSegments)
	}
}

// What is no data directory of a server that was shut down cleanly is refused.
func TestNotStopped(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Template: true})
	refused := func(what, text string) {
		t.Helper()
		if _, err := OpenStopped(c.Data); !errors.Is(err, ErrNotStopped) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("running", "pg_ctl stop")
	c.Kill(t)
	refused("crashed", `"in production"`)
	c.Start(t)
	c.Stop(t, "immediate")
	refused("stopped in the mode immediate", `"in production"`)
	c.Start(t)
	c.Stop(t, "fast")
	s, err := OpenStopped(c.Data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	wal := filepath.Join(c.Data, "pg_wal", s.shutdown.WAL[0].Name)
	whole, err := os.ReadFile(wal)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(b []byte) []byte{
		"a short segment":     func(b []byte) []byte { return b[:1<<20] },
		"a segment of zeros":  func(b []byte) []byte { clear(b); return b },
		"a bit in the record": func(b []byte) []byte { b[int(s.shutdown.Checkpoint)%len(b)+50] ^= 4; return b },
		"no record":           func(b []byte) []byte { clear(b[int(s.shutdown.Checkpoint)%len(b):]); return b },
	} {
		if err := os.WriteFile(wal, change(append([]byte(nil), whole...)), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(what, "cannot be read")
	}
	if err := os.Remove(wal); err != nil {
		t.Fatal(err)
	}
	refused("no segment", "no such file")
	if err := os.WriteFile(wal, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Data, "postmaster.opts"), []byte(`/usr/lib/postgresql/15/bin/postgres "-D" "/x" "-c" "config_file=/etc/postgresql/15/a b/postgresql.conf"`), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil || info.Major() != 15 || fmt.Sprint(info.ConfigFiles) != "[/etc/postgresql/15/a b/postgresql.conf]" || info.DataChecksums || info.SegmentSize != 16<<20 {
		t.Errorf("%+v, %v", info, err)
	}
}

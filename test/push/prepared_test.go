package push

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
)

// TestPreparedAndSlots: transactions that are prepared at the point restored to can be committed and rolled back
// there; slots of the original stay with it. WAL segments have 64 MB here, of which 64, not 256, carry one number in
// the middle of their names: the backup begins in the last one with a number.
func TestPreparedAndSlots(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true, Checksums: true, WALSegMB: 64,
		Conf: []string{"wal_level = logical", "max_prepared_transactions = 10", "autovacuum = off", "fsync = off"}})
	s.Stop(t, "fast")
	if o := site.Finish(t, s.Program(s.Bin("pg_resetwal"), "--next-wal-file=00000001000000010000003E", s.Data)); o.Code != 0 {
		t.Fatal(o)
	}
	s.Start(t)
	s.Exec(t, `CREATE TABLE rows (step int, filler text); INSERT INTO rows VALUES (1)`)
	s.Exec(t, `SELECT pg_create_physical_replication_slot('physical', true), pg_create_logical_replication_slot('logical', 'pgoutput')`)
	prepare := func(step int, name string) {
		s.Exec(t, fmt.Sprintf(`BEGIN; INSERT INTO rows VALUES (%d, repeat('x', 5000)); PREPARE TRANSACTION '%s'`, step, name))
	}
	prepare(2, "stays")
	prepare(3, "to be committed")
	prepare(4, "to be rolled back")
	b := s.Backup(t)
	if b.FirstWAL != "00000001000000010000003F" {
		t.Fatalf("the backup begins in %s, which is not what the test is about", b.FirstWAL)
	}
	s.Exec(t, `COMMIT PREPARED 'to be committed'`)
	s.Exec(t, `ROLLBACK PREPARED 'to be rolled back'`)
	prepare(5, "later")
	s.Archived(t)
	s.Exec(t, `INSERT INTO rows VALUES (6)`)
	s.Archived(t)
	for _, p := range []string{"pg_replslot/physical/state", "pg_replslot/logical/state"} {
		if site.Survey(t, s.Data)[p].Content == "" {
			t.Fatalf("the original has no %s", p)
		}
		if o := s.Run(t, "backup-cat", b.Backup, p); o.Code != 6 {
			t.Errorf("backup-cat of %s, which the backup should not have: %v", p, o)
		}
	}

	for name, c := range map[string]struct {
		args           []string
		rows, prepared string
		commits, after string
	}{
		"end of the backup": {[]string{"--target=immediate", "--target-action=promote"}, "1", "stays|to be committed|to be rolled back", "to be committed", "1 3"},
		"end of the WAL":    {nil, "1 3 6", "later|stays", "later", "1 3 5 6"},
	} {
		t.Run(name, func(t *testing.T) {
			target := s.Fetch(t, c.args...)
			if left, err := os.ReadDir(filepath.Join(target, "pg_replslot")); err != nil || len(left) != 0 {
				t.Errorf("pg_replslot has %v (%v)", left, err)
			}
			r := s.Spawn(t, target, slices.Concat(site.NoArchiving, []string{"-c", "fsync=off"})...)
			want := "64MB|0|" + strings.ReplaceAll(c.prepared, "|", ",")
			got := r.SQL(t, `SELECT current_setting('wal_segment_size'), (SELECT count(*) FROM pg_replication_slots),
				(SELECT string_agg(gid, ',' ORDER BY gid) FROM pg_prepared_xacts)`)
			if got != want {
				t.Errorf("segment size, slots and prepared transactions: %s, want %s", got, want)
			}
			const rows = `SELECT string_agg(step::text, ' ' ORDER BY step) FROM rows`
			if got := r.SQL(t, rows); got != c.rows {
				t.Errorf("rows %s, want %s", got, c.rows)
			}
			for gid := range strings.SplitSeq(c.prepared, "|") {
				if gid != c.commits && gid != "stays" {
					r.Exec(t, `ROLLBACK PREPARED '`+gid+`'`)
				}
			}
			r.Exec(t, `COMMIT PREPARED '`+c.commits+`'`)
			r.Restart(t) // with what is left
			if got := r.SQL(t, rows); got != c.after {
				t.Errorf("after the commit rows %s, want %s", got, c.after)
			}
			r.Exec(t, `COMMIT PREPARED 'stays'`)
			if got := r.SQL(t, `SELECT length(filler) FROM rows WHERE step = 2`); got != "5000" {
				t.Errorf("the row of the transaction that stayed has %s bytes", got)
			}
			site.Sound(t, r)
		})
	}
}

// TestLargeRelation comes back from several files; the long form has more than 3 GB of it.
func TestLargeRelation(t *testing.T) {
	pages, files := 2000, 1
	if site.Torture() {
		pages, files = 425_000, 4
	}
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true, Checksums: true, Conf: []string{"fsync = off", "autovacuum = off", "max_wal_size = '8GB'"}})
	for name, value := range map[string]string{"wal_level": "minimal", "archive_mode": "off", "max_wal_senders": "0"} {
		s.Exec(t, `ALTER SYSTEM SET `+name+` = `+value) // so that the filling writes no WAL
	}
	s.Restart(t)
	s.Exec(t, fmt.Sprintf(`BEGIN; CREATE TABLE large (i int, page text); ALTER TABLE large ALTER page SET STORAGE PLAIN;
		INSERT INTO large SELECT i, repeat(md5(i::text), 250) FROM generate_series(1, %d) i; COMMIT`, pages))
	s.Exec(t, `ALTER SYSTEM RESET ALL`)
	s.Restart(t)
	s.Backup(t)
	s.Exec(t, `UPDATE large SET page = 'changed' WHERE i % 1000 = 0`) // recovery writes to all of the files
	want := site.Contents(t, s.Cluster, "postgres")
	s.Archived(t)
	at := s.SQL(t, `SELECT pg_relation_filepath('large')`)
	s.Stop(t, "fast")

	target := s.Fetch(t)
	s.Verified(t, target)
	c := s.Spawn(t, target, slices.Concat(site.NoArchiving, []string{"-c", "fsync=off"})...)
	site.SameContents(t, c, "postgres", want)
	if n := c.SQL(t, `SELECT count(DISTINCT ctid) FROM large WHERE page = 'changed'`); n != fmt.Sprint(pages/1000) {
		t.Errorf("%s rows are changed, want %d", n, pages/1000)
	}
	c.Stop(t, "fast")
	original, restored := relationFiles(t, s.Data, at), relationFiles(t, target, at)
	size := int64(0)
	for _, n := range restored {
		size += n
	}
	if !maps.Equal(original, restored) || len(restored) != files || size < int64(pages)*8192 {
		t.Errorf("files %v, were %v, want %d with %d bytes or more", restored, original, files, pages*8192)
	}
	t.Logf("%d bytes in %d files", size, len(restored))
}

// relationFiles are the sizes of a relation's files, 1 GB but for the last.
func relationFiles(t testing.TB, data, at string) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	for i := 0; ; i++ {
		name := at
		if i > 0 {
			name = fmt.Sprintf("%s.%d", at, i)
		}
		info, err := os.Stat(filepath.Join(data, name))
		if errors.Is(err, fs.ErrNotExist) {
			return sizes
		} else if err != nil {
			t.Fatal(err)
		}
		sizes[name] = info.Size()
	}
}

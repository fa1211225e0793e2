package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// torture is whether the long forms of tests run: make torture.
func torture() bool { return os.Getenv("PGOBJ_TORTURE") != "" }

// reuseFigures are what backup-list --json tells of reuse.
type reuseFigures struct {
	Backup string `json:"backup"`
	Size   int64  `json:"size"`
	Read   int64  `json:"read"`
	Reused int64  `json:"reused"`
	Stored int64  `json:"stored"`
}

func (s *site) reuse(t testing.TB, args ...string) (f reuseFigures) {
	t.Helper()
	o := s.must(t, append([]string{"backup-push", "--json", "--wal-timeout=1m"}, args...)...)
	if err := json.Unmarshal([]byte(o.out), &f); err != nil {
		t.Fatalf("backup-push --json: %v in %v", err, o)
	}
	return f
}

// nightShift is one night's work of a lively database.
func nightShift(t testing.TB, s *site, night int, rnd *rand.Rand) {
	t.Helper()
	n := rnd.IntN(3000)
	s.SQL(t, fmt.Sprintf(`UPDATE big SET v = v + 1 WHERE id IN (SELECT (random() * 200000)::int FROM generate_series(1, %d))`, n))
	switch night % 8 {
	case 0:
		s.SQL(t, fmt.Sprintf(`INSERT INTO big SELECT g, g, md5(g::text) FROM generate_series(1000000 + %d * 10000, 1000000 + %[1]d * 10000 + 5000) g`, night))
	case 1:
		s.SQL(t, `DELETE FROM big WHERE id % 17 = 0`)
		s.SQL(t, `VACUUM big`)
	case 2:
		s.SQL(t, fmt.Sprintf(`CREATE TABLE t%d AS SELECT g AS id, md5(g::text) AS t FROM generate_series(1, 20000) g`, night))
	case 3:
		s.SQL(t, fmt.Sprintf(`TRUNCATE t%d`, night-1))
		s.SQL(t, fmt.Sprintf(`INSERT INTO t%d SELECT g, 'again' FROM generate_series(1, 100) g`, night-1))
	case 4:
		s.SQL(t, fmt.Sprintf(`CREATE DATABASE d%d TEMPLATE template0`, night))
	case 5:
		s.SQL(t, `VACUUM FULL big`)
	case 6:
		s.SQL(t, fmt.Sprintf(`DROP TABLE t%d`, night-4))
	case 7:
		s.SQL(t, fmt.Sprintf(`DROP DATABASE d%d`, night-3))
		s.SQL(t, `DELETE FROM big WHERE id > 150000`)
		s.SQL(t, `VACUUM big`) // gives pages back: the file is truncated
	}
}

// Nightly backups of a lively database, each an increment in the store and a full one to restore: with the
// server's WAL summaries (18) and without (15).
func TestNightlyBackupsAreExact(t *testing.T) {
	nights := 9
	if torture() {
		nights = 60
	}
	for _, o := range []pgtest.Options{{Major: 15, Checksums: true}, {Major: 18, Conf: []string{"summarize_wal = on"}}} {
		t.Run(fmt.Sprint(o.Major), func(t *testing.T) {
			s := newSite(t, folderStore(t), o)
			s.SQL(t, `CREATE TABLE big (id int PRIMARY KEY, v int, t text)`)
			s.SQL(t, `INSERT INTO big SELECT g, 0, md5(g::text) FROM generate_series(1, 200000) g`)
			s.SQL(t, `CREATE TABLE idle AS SELECT g AS id, md5(g::text) AS t FROM generate_series(1, 200000) g`)
			rnd := rand.New(rand.NewPCG(uint64(o.Major), 1))
			type night struct{ backup, at, want string }
			var history []night
			for i := range nights {
				nightShift(t, s, i, rnd)
				f := s.reuse(t)
				if i > 0 && f.Reused < f.Size/4 {
					t.Errorf("night %d: of %d bytes only %d were reused", i, f.Size, f.Reused)
				}
				history = append(history, night{f.Backup, s.SQL(t, `SELECT clock_timestamp()`), contents(t, s.Cluster, "postgres")})
			}
			s.SQL(t, `CREATE TABLE the_end ()`)
			s.archived(t)
			s.must(t, "backup-verify", "all")
			full := s.reuse(t, "--full")
			s.Stop(t, "fast")
			if full.Reused > full.Size/3 { // the templates' files, which occur in every database
				t.Errorf("--full reused %d of %d bytes", full.Reused, full.Size)
			}
			for i, n := range history {
				if !torture() && i%4 != 0 {
					continue
				}
				target := s.fetch(t, n.backup, "--target-time="+n.at, "--target-action=promote")
				if o.Major == 15 {
					s.verified(t, target)
				}
				c := s.start(t, target, noArchiving...)
				sameContents(t, c, "postgres", n.want)
				if o.Major == 15 {
					sound(t, c)
				} else if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// With WAL summaries only what has changed is read, and pages that they do not speak of come from the
// backup before.
func TestWALSummariesSpareReading(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{Major: 18, Conf: []string{"summarize_wal = on", "autovacuum = off"}})
	s.SQL(t, `CREATE TABLE big (id int, v int, filler text) WITH (fillfactor = 90)`)
	s.SQL(t, `INSERT INTO big SELECT g, 0, repeat(md5(g::text), 10) FROM generate_series(1, 200000) g`)
	s.SQL(t, `VACUUM FREEZE big`)
	s.SQL(t, `CHECKPOINT`)
	s.reuse(t)
	s.reuse(t) // what the first has changed (hint bits, statistics) is in this one
	s.SQL(t, `UPDATE big SET v = 1 WHERE id % 2000 = 0`)
	want := contents(t, s.Cluster, "postgres")
	pages := 0
	if _, err := fmt.Sscan(s.SQL(t, `SELECT count(DISTINCT (ctid::text::point)[0]) FROM big WHERE v = 1`), &pages); err != nil {
		t.Fatal(err)
	}
	f := s.reuse(t)
	// FSM and other files that summaries do not tell about, the catalogs that VACUUM and backups touch, and what is made anew.
	const besides = 3 << 20
	if limit := int64(2*pages*8192 + besides); f.Read > limit {
		t.Errorf("%d bytes were read for %d changed pages; the limit is %d of %d", f.Read, pages, limit, f.Size)
	}
	if f.Size < 20*f.Read {
		t.Errorf("of %d bytes %d were read: this shows nothing", f.Size, f.Read)
	}
	again := s.reuse(t) // on top of chunks that have no hash of their own
	s.must(t, "backup-verify", "all")
	s.Stop(t, "fast") // all WAL that the backups need is archived
	for _, id := range []string{f.Backup, again.Backup} {
		c := s.start(t, s.fetch(t, id), noArchiving...)
		sameContents(t, c, "postgres", want)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Databases made from one template share their content.
func TestCopiedDatabasesAreStoredOnce(t *testing.T) {
	n := 8
	if torture() {
		n = 100
	}
	s := newSite(t, folderStore(t), pgtest.Options{Major: 15})
	s.SQL(t, `CREATE DATABASE tmpl`)
	s.SQLIn(t, "tmpl", `CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 50000) g`)
	one := s.reuse(t)
	for i := range n {
		s.SQL(t, fmt.Sprintf(`CREATE DATABASE copy%d TEMPLATE tmpl STRATEGY file_copy`, i))
	}
	all := s.reuse(t, "--full")
	if float64(all.Stored) > 1.2*float64(one.Stored) {
		t.Errorf("%d copies of a database make the backup %d bytes instead of %d", n, all.Stored, one.Stored)
	}
	if !strings.Contains(s.must(t, "backup-list").out, "REUSED") {
		t.Error("backup-list does not speak of reuse")
	}
}

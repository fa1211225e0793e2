package push

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// nightShift is one night's work of a lively database.
func nightShift(t testing.TB, s *site.Site, night int, rnd *rand.Rand) {
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

// night is what there was when a backup was taken.
type night struct {
	backup, at, rows string
	pages            map[string]string // hash of each file; nil when pgbench ran during the backup
}

// pages are the hashes of all files that hold pages. The server must be at rest: nothing is dirty but what
// nobody will write.
func pages(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, top := range []string{"base", "global", "pg_xact", "pg_multixact"} {
		for p, x := range site.Survey(t, filepath.Join(dir, top)) {
			if base := filepath.Base(p); x.Mode.IsRegular() && base != "pg_control" && base != "pg_internal.init" {
				all[top+"/"+p] = x.Content
			}
		}
	}
	return all
}

// nightly is a cluster that lives on and its backups.
type nightly struct {
	*site.Site
	rnd     *rand.Rand
	history []night
	deleted int
	// Of all increments. One of them may reuse little: what is alive of a part with little live data is stored again.
	size, reused int64
}

func newNightly(t testing.TB, o pgtest.Options) *nightly {
	// Pages are written by checkpoints only, so that between the start of a backup and the next statement
	// the files stay as they are.
	o.Conf = append(o.Conf, "autovacuum = off", "bgwriter_lru_maxpages = 0", "checkpoint_timeout = '1h'", "max_wal_size = '4GB'")
	s := site.NewSite(t, site.DirectoryStore(t), o)
	s.SQL(t, `CREATE TABLE big (id int PRIMARY KEY, v int, t text)`)
	s.SQL(t, `INSERT INTO big SELECT g, 0, md5(g::text) FROM generate_series(1, 200000) g`)
	s.SQL(t, `CREATE TABLE idle AS SELECT g AS id, md5(g::text) AS t FROM generate_series(1, 200000) g`)
	n := &nightly{Site: s, rnd: rand.New(rand.NewPCG(uint64(o.Major), 1))}
	n.pgbench(t, "--initialize", "--scale=2", "--quiet")
	return n
}

// pgbenchCommand is that of PostgreSQL 15, which can talk to the others.
func (n *nightly) pgbenchCommand(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	bin, err := pgtest.BinDir(15)
	if err != nil {
		t.Fatal(err)
	}
	return n.Program(filepath.Join(bin, "pgbench"), args...)
}

func (n *nightly) pgbench(t testing.TB, args ...string) {
	t.Helper()
	if o := site.Finish(t, n.pgbenchCommand(t, args...)); o.Code != 0 {
		t.Fatal(o)
	}
}

// night works, takes a backup, in one night of three while pgbench goes on, and now and then deletes an older one.
func (n *nightly) night(t testing.TB) {
	t.Helper()
	i := n.deleted + len(n.history)
	nightShift(t, n.Site, i, n.rnd)
	n.pgbench(t, "--client=2", "--transactions=300", "--no-vacuum")
	hot := i%3 == 2
	var load *exec.Cmd
	if hot {
		// At a rate, so that a slow machine's backup does not find everything changed.
		load = n.pgbenchCommand(t, "--client=2", "--time=600", "--rate=50", "--no-vacuum")
		if err := load.Start(); err != nil {
			t.Fatal(err)
		}
		before := n.Transactions(t)
		testenv.Eventually(t, time.Minute, "pgbench is at work", func() bool { return n.Transactions(t) > before+50 })
	}
	f := n.Reuse(t)
	t.Logf("night %d: of %d bytes %d were read, %d reused, %d stored", i, f.Size, f.Read, f.Reused, f.Stored)
	if i > 0 {
		n.size, n.reused = n.size+f.Size, n.reused+f.Reused
	}
	x := night{backup: f.Backup}
	if hot {
		_ = load.Process.Signal(syscall.SIGTERM)
		_ = load.Wait() // ended by the signal
		n.Eventually(t, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'`, "0")
	} else {
		x.pages = pages(t, n.Data)
	}
	x.at, x.rows = n.SQL(t, `SELECT clock_timestamp()`), site.Contents(t, n.Cluster, "postgres")
	n.history = append(n.history, x)
	if len(n.history) > 3 && n.rnd.IntN(4) == 0 {
		k := n.rnd.IntN(len(n.history) - 1)
		n.Must(t, "delete", "target", n.history[k].backup, "--confirm")
		n.history = slices.Delete(n.history, k, k+1)
		n.deleted++
	}
}

// restore brings one night back and compares it.
func (n *nightly) restore(t testing.TB, x night) {
	t.Helper()
	target := n.Fetch(t, x.backup, "--target-time="+x.at, "--target-action=promote")
	if n.Major == 15 {
		n.Verified(t, target)
	}
	if x.pages != nil {
		got := pages(t, target)
		for p, sum := range x.pages {
			if got[p] != sum {
				t.Errorf("backup %s: %s is not the file that there was", x.backup, p)
			}
		}
		if len(got) != len(x.pages) {
			t.Errorf("backup %s has %d files with pages, there were %d", x.backup, len(got), len(x.pages))
		}
	}
	c := n.Spawn(t, target, site.NoArchiving...)
	site.SameContents(t, c, "postgres", x.rows)
	if n.Major == 15 {
		site.Sound(t, c)
	} else if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(target); err != nil { // sixty of them would fill a disk
		t.Error(err)
	}
}

// bounds compares the last of many increments with a backup that stored everything again.
func (n *nightly) bounds(t testing.TB) {
	t.Helper()
	last := n.Reuse(t)
	full := n.Reuse(t, "--full")
	if full.Reused > full.Size/3 { // the templates' files, which occur in every database
		t.Errorf("--full reused %d of %d bytes", full.Reused, full.Size)
	}
	if o := n.Must(t, "backup-verify", "--sample=20%", "--seed=5"); !strings.Contains(o.Out, "(--seed 5)") || !strings.Contains(o.Out, "not read") || strings.Contains(o.Out, "is sound:") {
		t.Errorf("backup-verify --sample says %s", o.Out)
	}
	a, b := n.Cost(t, last.Backup), n.Cost(t, full.Backup)
	if a.Fetched*2 > b.Fetched*3 {
		t.Errorf("a restore of the last increment reads %d bytes, of a full backup %d", a.Fetched, b.Fetched)
	}
	if a.Amplification > 1.5 {
		t.Errorf("a restore of the last increment expands %.2f times its size", a.Amplification)
	}
	rounds := 1
	if site.Torture() {
		rounds = 3
	}
	fastest := map[string]time.Duration{}
	for range rounds {
		for _, id := range []string{last.Backup, full.Backup} {
			begin := time.Now()
			target := n.Fetch(t, id)
			if took := time.Since(begin); fastest[id] == 0 || took < fastest[id] {
				fastest[id] = took
			}
			if err := os.RemoveAll(target); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept, fresh := n.PartBytes(t, last.Backup), n.PartBytes(t, full.Backup)
	t.Logf("a database of %d bytes: a restore after %d increments reads %d bytes (expands %.2f) in %v, of a full backup %d (%.2f) in %v; it keeps %d bytes of parts, a full one %d",
		last.Size, n.deleted+len(n.history), a.Fetched, a.Amplification, fastest[last.Backup].Round(time.Millisecond), b.Fetched, b.Amplification, fastest[full.Backup].Round(time.Millisecond), kept, fresh)
	// A part is not reused when less than a quarter of it is live.
	if kept > 4*fresh {
		t.Errorf("the last increment keeps %d bytes of parts, a full backup %d", kept, fresh)
	}
}

// Nightly backups of a lively database, some of them deleted again, each an increment in the store and a full one
// to restore: with the server's WAL summaries (18) and without (15).
func TestNightlyBackupsAreExact(t *testing.T) {
	each := 4
	if site.Torture() {
		each = 1
	}
	// Checksums are on with summaries, too: only then are hint bits in the WAL, so that pages are equal to the last bit.
	for _, o := range []pgtest.Options{{Major: 15, Checksums: true}, {Major: 18, Checksums: true, Conf: []string{"summarize_wal = on"}}} {
		t.Run(fmt.Sprint(o.Major), func(t *testing.T) {
			n := newNightly(t, o)
			nights := 9
			if site.Torture() {
				nights = 60
			} else if o.Major == 18 {
				nights = 6
			}
			for range nights {
				n.night(t)
			}
			if n.reused < n.size/4 {
				t.Errorf("of %d bytes in all increments only %d were reused", n.size, n.reused)
			}
			n.SQL(t, `CREATE TABLE the_end ()`)
			n.Archived(t)
			n.Must(t, "backup-verify", "all")
			exact := 0
			for i, x := range n.history {
				if i%each == 0 {
					n.restore(t, x)
					if x.pages != nil {
						exact++
					}
				}
			}
			t.Logf("%d nights, %d of the backups deleted, %d compared by page", nights, n.deleted, exact)
			if exact == 0 || n.deleted == 0 {
				t.Error("no backup was compared by page, or none deleted: this shows too little")
			}
			n.bounds(t)
			n.Stop(t, "fast")
		})
	}
}

// With WAL summaries only what has changed is read, and pages that they do not speak of come from the
// backup before.
func TestWALSummariesSpareReading(t *testing.T) {
	for _, major := range []int{17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) { summariesSpareReading(t, major) })
	}
}

func summariesSpareReading(t *testing.T, major int) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Conf: []string{"summarize_wal = on", "autovacuum = off"}})
	s.SQL(t, `CREATE TABLE big (id int, v int, filler text) WITH (fillfactor = 90)`)
	s.SQL(t, `INSERT INTO big SELECT g, 0, repeat(md5(g::text), 10) FROM generate_series(1, 200000) g`)
	s.SQL(t, `VACUUM FREEZE big`)
	s.SQL(t, `CHECKPOINT`)
	s.Reuse(t)
	s.Reuse(t) // what the first has changed (hint bits, statistics) is in this one
	s.SQL(t, `UPDATE big SET v = 1 WHERE id % 2000 = 0`)
	want := site.Contents(t, s.Cluster, "postgres")
	pages := 0
	if _, err := fmt.Sscan(s.SQL(t, `SELECT count(DISTINCT (ctid::text::point)[0]) FROM big WHERE v = 1`), &pages); err != nil {
		t.Fatal(err)
	}
	f := s.Reuse(t)
	// The UPDATE has cleared bits of the visibility map, of which summaries know nothing: with the old map an
	// index-only scan would return rows that are gone.
	vm := s.SQL(t, `SELECT pg_relation_filepath('big')`) + "_vm"
	visibility := site.ReadFile(t, filepath.Join(s.Data, vm))
	// FSM, VM and other files that summaries do not tell about, the catalogs that VACUUM and backups touch, and what is rewritten.
	const besides = 4 << 20
	if limit := int64(2*pages*8192 + besides); f.Read > limit {
		t.Errorf("%d bytes were read for %d changed pages; the limit is %d of %d", f.Read, pages, limit, f.Size)
	}
	if f.Size < 20*f.Read {
		t.Errorf("of %d bytes %d were read: this shows nothing", f.Size, f.Read)
	}
	again := s.Reuse(t) // on top of chunks that have no hash of their own
	s.Must(t, "backup-verify", "all")
	s.Stop(t, "fast") // all WAL that the backups need is archived
	for _, id := range []string{f.Backup, again.Backup} {
		target := s.Fetch(t, id)
		if !bytes.Equal(site.ReadFile(t, filepath.Join(target, vm)), visibility) {
			t.Errorf("backup %s: the visibility map of the table is not the one that there was", id)
		}
		c := s.Spawn(t, target, site.NoArchiving...)
		site.SameContents(t, c, "postgres", want)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Databases made from one template share their content.
func TestCopiedDatabasesAreStoredOnce(t *testing.T) {
	n := 8
	if site.Torture() {
		n = 100
	}
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: 15})
	s.SQL(t, `CREATE DATABASE tmpl`)
	s.SQLIn(t, "tmpl", `CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 200000) g`)
	one := s.Reuse(t)
	for i := range n {
		s.SQL(t, fmt.Sprintf(`CREATE DATABASE copy%d TEMPLATE tmpl STRATEGY file_copy`, i))
	}
	all := s.Reuse(t, "--full")
	t.Logf("%d databases of %d bytes in all are stored in %d bytes, one in %d", n, all.Size, all.Stored, one.Stored)
	if float64(all.Stored) > 1.2*float64(one.Stored) {
		t.Errorf("%d copies of a database make the backup %d bytes instead of %d", n, all.Stored, one.Stored)
	}
	if !strings.Contains(s.Must(t, "backup-list").Out, "REUSED") {
		t.Error("backup-list does not speak of reuse")
	}
}

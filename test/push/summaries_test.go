package push

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// summarized is a site whose server keeps WAL summaries, at rest but for what the test does: nothing writes pages
// between the start of a backup and the test's next statement.
type summarized struct{ *site.Site }

func newSummarized(t testing.TB, o pgtest.Options) *summarized {
	t.Helper()
	o.Major = 18
	o.Conf = append(o.Conf, "summarize_wal = on", "autovacuum = off", "bgwriter_lru_maxpages = 0", "checkpoint_timeout = '1h'", "max_wal_size = '4GB'", "min_wal_size = '32MB'")
	s := &summarized{site.NewSite(t, site.DirectoryStore(t), o)}
	filled(t, s.Cluster, "postgres", "big", "big")
	return s
}

// filled makes a table of some 8 MB in one database. VACUUM sets all its bits, so that reading it changes nothing.
func filled(t testing.TB, c *pgtest.Cluster, db, table, text string) {
	t.Helper()
	c.SQLIn(t, db, `CREATE TABLE `+table+` (id int, t text) WITH (fillfactor = 90)`)
	c.SQLIn(t, db, `INSERT INTO `+table+` SELECT g, repeat(md5(g::text || '`+text+`'), 6) FROM generate_series(1, 30000) g`)
	c.SQLIn(t, db, `VACUUM FREEZE `+table)
}

// touchOne changes one row of a table, and so the attributes of its file.
func touchOne(t testing.TB, c *pgtest.Cluster, table string) {
	t.Helper()
	c.Exec(t, `UPDATE `+table+` SET t = repeat('x', 180) WHERE id = (SELECT min(id) + 1 + (random() * 1000)::int FROM `+table+`)`)
}

func (s *summarized) bytes(t testing.TB, db, table string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(s.SQLIn(t, db, `SELECT pg_relation_size('`+table+`')`), &n); err != nil || n < 6<<20 {
		t.Fatalf("the table %s has %d bytes (%v): this shows nothing", table, n, err)
	}
	return n
}

// reads takes a backup that has to read so many bytes, at least and at most, and compares what it restores with the
// files as they are, byte by byte.
func (s *summarized) reads(t testing.TB, what string, least, most int64) site.ReuseFigures {
	t.Helper()
	f := s.Reuse(t)
	if f.Read < least || f.Read > most {
		t.Errorf("%s: of %d bytes %d were read; it should be %d to %d", what, f.Size, f.Read, least, most)
	}
	s.equals(t, what, f.Backup)
	return f
}

func (s *summarized) equals(t testing.TB, what, backup string) {
	t.Helper()
	dir := s.Fetch(t, backup, "--target=immediate", "--target-action=promote", "--tablespace-map-all", testenv.Dir(t))
	want, got := pages(t, s.Data), pages(t, dir)
	for p := range want {
		name, _, _ := strings.Cut(filepath.Base(p), "_")
		name, _, _ = strings.Cut(name, ".")
		if _, unlogged := want[filepath.Join(filepath.Dir(p), name+"_init")]; unlogged && !strings.HasSuffix(p, "_init") {
			delete(want, p) // its rows are in no backup of a running server
		}
	}
	for p, sum := range want {
		if got[p] != sum {
			t.Errorf("%s: backup %s: %s is not the file that there was", what, backup, p)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: backup %s has %d files with pages, there were %d", what, backup, len(got), len(want))
	}
	site.Must(t, os.RemoveAll(dir))
}

// few is what is read at any time beside tables: catalogs that DDL changes, maps, what is no relation, what is rewritten.
const few = 5 << 20

// anything is read where files are: of one that is less than two seconds old, attributes prove nothing.
const anything = 1 << 40

// TestWALSummariesInDoubt: where the server's WAL summaries do not tell everything of a file, it is read; where they do,
// it is not; and whatever was read, the backup holds exactly the files that there were.
func TestWALSummariesInDoubt(t *testing.T) {
	t.Parallel()
	s := newSummarized(t, pgtest.Options{Checksums: true})
	s.Reuse(t)
	s.reads(t, "nothing has changed", 0, few)
	big := s.bytes(t, "postgres", "big")
	touchOne(t, s.Cluster, "big")
	s.reads(t, "a page has changed", 8192, few)
	for _, c := range []struct {
		name string
		run  func(*testing.T, int64)
	}{
		{"a summary is missing", s.missingSummary},
		{"a summary is damaged", s.damagedSummary},
		{"switched off and on", s.switchedOff},
		{"a database was copied as files", s.copiedDatabase},
		{"a database went to a tablespace and back", s.movedDatabase},
		{"pages were given back", s.givenBack},
		{"truncated", s.truncated},
		{"from unlogged to logged and back", s.relogged},
		{"a relation file's name was used again", s.reusedName},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, big) })
	}
	s.Must(t, "backup-verify", "all")
	want := site.Contents(t, s.Cluster, "postgres")
	f := s.Reuse(t)
	site.SameContents(t, s.Spawn(t, s.Fetch(t, f.Backup, "--target=immediate", "--target-action=promote"), site.NoArchiving...), "postgres", want)
}

// missingSummary removes a summary of what has changed: nobody may believe that nothing has.
func (s *summarized) missingSummary(t *testing.T, big int64) {
	site.Must(t, os.Remove(s.summaryOfAChange(t)))
	s.reads(t, "with a gap in the summaries", big, anything)
	touchOne(t, s.Cluster, "big")
	s.reads(t, "after the gap", 8192, few)
}

// damagedSummary has the server refuse to read one of its own.
func (s *summarized) damagedSummary(t *testing.T, big int64) {
	name := s.summaryOfAChange(t)
	data := site.ReadFile(t, name)
	site.Overwrite(t, name, site.Flip(data, len(data)/2))
	s.reads(t, "with a damaged summary", big, anything)
}

// summaryOfAChange changes a page and returns the path of a summary that tells of it.
func (s *summarized) summaryOfAChange(t testing.TB) string {
	t.Helper()
	from := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	touchOne(t, s.Cluster, "big")
	s.Exec(t, `CHECKPOINT`)
	s.Exec(t, `SELECT pg_switch_wal()`)
	after := ` FROM pg_available_wal_summaries() WHERE end_lsn > '` + from + `'`
	s.Eventually(t, `SELECT count(*) > 0`+after, "t")
	x := strings.Split(s.SQL(t, `SELECT tli, start_lsn, end_lsn`+after+` ORDER BY start_lsn LIMIT 1`), "|")
	return filepath.Join(s.Data, "pg_wal/summaries", fmt.Sprintf("%08s%s%s.summary", x[0], lsnHex(t, x[1]), lsnHex(t, x[2])))
}

// lsnHex is an LSN as in the name of a summary.
func lsnHex(t testing.TB, lsn string) string {
	t.Helper()
	var hi, lo uint32
	if _, err := fmt.Sscanf(lsn, "%X/%X", &hi, &lo); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%08X%08X", hi, lo)
}

// switchedOff: the server may catch up on what it did not summarize while that was off, as long as it has the WAL.
func (s *summarized) switchedOff(t *testing.T, big int64) {
	summarize := func(on string) {
		s.Exec(t, `ALTER SYSTEM SET summarize_wal = `+on)
		s.Exec(t, `SELECT pg_reload_conf()`)
		s.Eventually(t, `SHOW summarize_wal`, on)
	}
	summarize("off")
	touchOne(t, s.Cluster, "big")
	s.reads(t, "while it is off", big, anything)
	touchOne(t, s.Cluster, "big")
	segment := s.SQL(t, `SELECT pg_walfile_name(pg_current_wal_insert_lsn())`)
	for range 6 { // until the segment is recycled
		s.Archived(t)
		touchOne(t, s.Cluster, "big")
		s.Exec(t, `CHECKPOINT`)
		if _, err := os.Stat(filepath.Join(s.Data, "pg_wal", segment)); err != nil {
			break
		}
	}
	if _, err := os.Stat(filepath.Join(s.Data, "pg_wal", segment)); err == nil {
		t.Fatal("the WAL is still there, so this shows nothing")
	}
	summarize("on")
	s.reads(t, "on again, and the WAL is gone", big, anything)
	touchOne(t, s.Cluster, "big")
	s.reads(t, "on again", 8192, few)
}

// copiedDatabase has another content come to where a database was, under the same names and with the same sizes, with no
// block of it in the WAL.
func (s *summarized) copiedDatabase(t *testing.T, _ int64) {
	s.Exec(t, `CREATE DATABASE one`)
	filled(t, s.Cluster, "one", "t", "first")
	s.Exec(t, `CREATE DATABASE two TEMPLATE one STRATEGY FILE_COPY`)
	s.SQLIn(t, "two", `UPDATE t SET t = reverse(t)`)
	s.SQLIn(t, "one", `UPDATE t SET t = t`) // so that the sizes agree
	s.Exec(t, `CREATE DATABASE copy OID 90001 TEMPLATE one STRATEGY FILE_COPY`)
	file := filepath.Join(s.Data, s.SQLIn(t, "copy", `SELECT pg_relation_filepath('t')`))
	s.Reuse(t)
	before := site.ReadFile(t, file)
	s.Exec(t, `DROP DATABASE copy`)
	s.Exec(t, `CREATE DATABASE copy OID 90001 TEMPLATE two STRATEGY FILE_COPY`)
	if after := site.ReadFile(t, file); len(after) != len(before) || string(after) == string(before) {
		t.Fatalf("the table's file has %d bytes instead of %d, or the same content: this shows nothing", len(after), len(before))
	}
	size := s.bytes(t, "copy", "t")
	s.reads(t, "a copy of another database", size, size+15<<20)
	s.Exec(t, `DROP DATABASE copy`)
	s.Exec(t, `CREATE DATABASE copy OID 90001 TEMPLATE one STRATEGY WAL_LOG`)
	s.reads(t, "a copy through the WAL", size, size+15<<20)
	for _, db := range []string{"copy", "one", "two"} {
		s.Exec(t, `DROP DATABASE `+db)
	}
	s.reads(t, "without them", 0, few)
}

// movedDatabase: ALTER DATABASE SET TABLESPACE copies files, too, and brings them back under their old names.
func (s *summarized) movedDatabase(t *testing.T, _ int64) {
	s.Exec(t, `CREATE TABLESPACE elsewhere LOCATION '`+testenv.Dir(t)+`'`)
	s.Exec(t, `CREATE DATABASE travels`)
	filled(t, s.Cluster, "travels", "t", "here")
	s.Reuse(t)
	s.Exec(t, `ALTER DATABASE travels SET TABLESPACE elsewhere`)
	s.SQLIn(t, "travels", `UPDATE t SET t = reverse(t) WHERE id % 100 = 0`)
	s.Exec(t, `ALTER DATABASE travels SET TABLESPACE pg_default`)
	size := s.bytes(t, "travels", "t")
	s.reads(t, "a database that was away", size, size+15<<20)
	s.Exec(t, `DROP DATABASE travels`)
	s.Exec(t, `DROP TABLESPACE elsewhere`)
}

// givenBack: VACUUM cuts a file off, and it grows again to the size that it had.
func (s *summarized) givenBack(t *testing.T, _ int64) {
	filled(t, s.Cluster, "postgres", "cut", "before")
	s.Reuse(t)
	size := s.bytes(t, "postgres", "cut")
	s.Exec(t, `DELETE FROM cut WHERE id > 15000`)
	s.Exec(t, `VACUUM cut`)
	if got := s.SQL(t, `SELECT pg_relation_size('cut') < 5000000`); got != "t" {
		t.Fatal("VACUUM has given nothing back: this shows nothing")
	}
	s.reads(t, "a shorter file", 0, size/2+few)
	s.Exec(t, `INSERT INTO cut SELECT g, repeat(md5(g::text || 'after'), 6) FROM generate_series(15001, 30000) g`)
	s.reads(t, "it has grown again", size/2, size+few)
	s.Exec(t, `DELETE FROM cut WHERE id > 15000`)
	s.Exec(t, `VACUUM cut`)
	s.Exec(t, `INSERT INTO cut SELECT g, repeat(md5(g::text || 'last'), 6) FROM generate_series(15001, 30000) g`)
	if got := s.bytes(t, "postgres", "cut"); got != size {
		t.Logf("the file has %d bytes, it had %d", got, size)
	}
	s.reads(t, "cut off and grown between two backups", size, size+few)
	s.Exec(t, `DROP TABLE cut`)
}

// truncated: a table that is truncated gets a new file; in the transaction that made it, the file itself is cut off.
func (s *summarized) truncated(t *testing.T, _ int64) {
	filled(t, s.Cluster, "postgres", "emptied", "before")
	s.Reuse(t)
	s.Exec(t, `TRUNCATE emptied`)
	s.Exec(t, `INSERT INTO emptied SELECT g, repeat(md5(g::text || 'again'), 6) FROM generate_series(1, 30000) g`)
	size := s.bytes(t, "postgres", "emptied")
	s.reads(t, "truncated and filled again", size, size+few)
	s.Exec(t, `DROP TABLE emptied`)
	s.Exec(t, `CREATE TABLE emptied (id int, t text); INSERT INTO emptied SELECT g, md5(g::text) FROM generate_series(1, 1000) g;
		TRUNCATE emptied; INSERT INTO emptied SELECT g, repeat(md5(g::text || 'last'), 6) FROM generate_series(1, 30000) g`)
	s.reads(t, "truncated in place", size, size+few)
	s.Exec(t, `DROP TABLE emptied`)
}

// relogged: what was unlogged comes into the backup as a whole; its forks come and go.
func (s *summarized) relogged(t *testing.T, _ int64) {
	filled(t, s.Cluster, "postgres", "u", "u")
	s.Exec(t, `ALTER TABLE u SET UNLOGGED`)
	s.reads(t, "an unlogged table", 0, few)
	s.Exec(t, `UPDATE u SET t = reverse(t) WHERE id % 10 = 0`)
	s.reads(t, "it has changed", 0, few)
	s.Exec(t, `ALTER TABLE u SET LOGGED`)
	size := s.bytes(t, "postgres", "u")
	s.reads(t, "it is logged", size, size+few)
	s.Exec(t, `CREATE TABLE fork AS SELECT * FROM u`) // has no map of its pages before VACUUM
	s.reads(t, "a new table", size, 2*size+few)       // and the one that was read for it, for its hint bits
	s.Exec(t, `VACUUM fork`)
	s.reads(t, "new forks", 8192, size+few)
	s.Exec(t, `DROP TABLE u, fork`)
}

// reusedName has a new table get the file name of one that was dropped, as may happen after the OIDs have come round
// once. What makes that happen here is a server in binary upgrade mode.
func (s *summarized) reusedName(t *testing.T, _ int64) {
	const oid = 95000
	create := func(text string) {
		s.Stop(t, "fast")
		c, err := pgtest.Attach(s.Data, s.Major, "-b")
		site.Must(t, err)
		defer s.Start(t)
		defer func() { site.Must(t, c.Close()) }()
		c.AddEnv(s.Settings...)
		c.AddEnv(s.Credentials...)
		c.Start(t)
		c.Exec(t, `DROP TABLE IF EXISTS again`)
		c.Exec(t, `CHECKPOINT`) // which removes the file
		c.Exec(t, fmt.Sprintf(`SELECT binary_upgrade_set_next_pg_type_oid(%d), binary_upgrade_set_next_array_pg_type_oid(%d), binary_upgrade_set_next_heap_pg_class_oid(%d),
			binary_upgrade_set_next_heap_relfilenode(%d); CREATE TABLE again (id int, t char(200)) WITH (fillfactor = 90)`, oid+1, oid+2, oid, oid))
		c.Exec(t, `INSERT INTO again SELECT g, repeat(md5(g::text || '`+text+`'), 6) FROM generate_series(1, 30000) g`)
		c.Exec(t, `CHECKPOINT`)
		c.Stop(t, "fast")
	}
	create("one")
	s.Reuse(t)
	file := filepath.Join(s.Data, s.SQL(t, `SELECT pg_relation_filepath('again')`))
	before := site.ReadFile(t, file)
	create("two")
	if after := site.ReadFile(t, file); filepath.Base(file) != fmt.Sprint(oid) || len(after) != len(before) || string(after) == string(before) {
		t.Fatalf("%s has %d bytes instead of %d, or the same content: this shows nothing", file, len(after), len(before))
	}
	size := s.bytes(t, "postgres", "again")
	s.reads(t, "a new table in a file of the same name", size, size+few)
	s.Exec(t, `DROP TABLE again`)
}

// TestWALSummariesKnowNothingOfChecksums: pg_checksums --enable writes every page, and nothing of that is in the WAL.
func TestWALSummariesKnowNothingOfChecksums(t *testing.T) {
	t.Parallel()
	s := newSummarized(t, pgtest.Options{})
	s.Reuse(t)
	s.Stop(t, "fast")
	for _, top := range []string{"base", "global"} {
		for p, x := range site.Survey(t, filepath.Join(s.Data, top)) {
			if name := filepath.Base(p); x.Mode.IsRegular() && name[0] >= '0' && name[0] <= '9' {
				enableChecksums(t, filepath.Join(s.Data, top, p))
			}
		}
	}
	site.Must(t, pgtest.SetChecksums(s.Data))
	site.Must(t, testenv.ChownPostgres(filepath.Join(s.Data, "global/pg_control")))
	s.Start(t)
	if got := s.SQL(t, `SHOW data_checksums`); got != "on" {
		t.Fatalf("data_checksums is %s", got)
	}
	want := site.Contents(t, s.Cluster, "postgres")
	big := s.bytes(t, "postgres", "big")
	f := s.reads(t, "with checksums", big, anything)
	site.SameContents(t, s.Spawn(t, s.Fetch(t, f.Backup, "--target=immediate", "--target-action=promote"), site.NoArchiving...), "postgres", want)
	touchOne(t, s.Cluster, "big")
	s.reads(t, "after that", 8192, few)
}

// enableChecksums does to a file of less than a segment what pg_checksums --enable does, which exists for one version only.
func enableChecksums(t testing.TB, path string) {
	t.Helper()
	data := site.ReadFile(t, path)
	for at := 0; at+8192 <= len(data); at += 8192 {
		page := data[at : at+8192]
		if binary.LittleEndian.Uint16(page[14:]) != 0 { // else it is new
			binary.LittleEndian.PutUint16(page[8:], datadir.PageChecksum(page, uint32(at/8192)))
		}
	}
	site.Overwrite(t, path, data)
}

// TestWALSummariesAcrossTimelines: they are followed across a promotion, and not believed where the last backup is on
// another branch of history.
func TestWALSummariesAcrossTimelines(t *testing.T) {
	t.Parallel()
	s := newSummarized(t, pgtest.Options{Checksums: true})
	big := s.bytes(t, "postgres", "big")
	s.Reuse(t)
	standby := &summarized{site.StandbyOf(t, s.Site)}
	site.CaughtUp(t, s.Cluster, standby.Cluster)
	touchOne(t, s.Cluster, "big")
	s.Reuse(t)
	touchOne(t, s.Cluster, "big")
	site.CaughtUp(t, s.Cluster, standby.Cluster)
	s.Stop(t, "immediate")
	standby.Exec(t, `SELECT pg_promote()`)
	standby.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	touchOne(t, standby.Cluster, "big")
	want := site.Contents(t, standby.Cluster, "postgres")
	promoted := standby.Reuse(t) // every inode is another one
	if promoted.Read > few {
		t.Errorf("after a promotion %d of %d bytes were read", promoted.Read, promoted.Size)
	}
	standby.Proven(t, promoted.Backup, want)

	// Changes that are in the next backup, and not in the history that goes on.
	at := standby.SQL(t, `SELECT clock_timestamp()`)
	standby.Exec(t, `UPDATE big SET t = reverse(t) WHERE id % 50 = 7`)
	lost := standby.Reuse(t)
	if lost.Read > big+few {
		t.Errorf("%d bytes were read", lost.Read)
	}
	standby.Archived(t)
	dir := s.Fetch(t, promoted.Backup, "--target-time="+at, "--target-action=promote", "--keep-archiving")
	standby.Stop(t, "immediate")
	branch := &summarized{&site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, dir)}}
	branch.Exec(t, `CREATE TABLE later AS SELECT generate_series(1, 100000)`) // beyond where the lost backup ends
	branch.Archived(t)
	branch.Archived(t)
	f := branch.reads(t, "on another branch", big, anything)
	branch.Proven(t, f.Backup, site.Contents(t, branch.Cluster, "postgres"))
}

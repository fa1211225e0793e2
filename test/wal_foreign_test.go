package test

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

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
)

// refused sees to it that a command's WAL is refused as another cluster's, and that nothing is stored.
func (r *walRig) refused(t testing.TB, st store, args ...string) {
	t.Helper()
	before := tree(t, st.folder)
	o := r.run(t, args...)
	if o.code != exitConflict || strings.Count(o.err, "ERROR:  ") != 1 || !strings.Contains(o.err, fmt.Sprint(r.sysid)) || !strings.Contains(o.err, "--new-incarnation") {
		t.Errorf("%s: %v", strings.Join(args, " "), o)
	}
	if after := tree(t, st.folder); !maps.Equal(before, after) {
		t.Errorf("%s: the repository changed: %v", strings.Join(args, " "), differences(before, after))
	}
}

// Rows 4 and 5: two clusters that archive to one place, by mistake or because initdb made the second. Before the first backup the archive is that of the cluster whose WAL came first; each kind of wal-push refuses another's.
func TestTwoClustersInOnePlace(t *testing.T) {
	t.Parallel()
	st := folderStore(t)
	a, b := newWALRig(t, st), newWALRig(t, st)
	ofA, ofB := walSegment(wal1, a.sysid, mib, 1), walSegment(wal1, b.sysid, mib, 2)
	a.mustPush(t, wal1, ofA)
	before := tree(t, st.folder)
	if o, _ := b.fetch(t, wal1); o.code != 255 || !strings.Contains(o.err, fmt.Sprint(b.sysid)) {
		t.Errorf("the second cluster has no archive: %v", o)
	}
	if o := b.push(t, wal1, ofA); o.code != 11 || !strings.Contains(o.err, fmt.Sprint(a.sysid)) || !strings.Contains(o.err, fmt.Sprint(b.sysid)) {
		t.Errorf("WAL of the other cluster in pg_wal: %v", o)
	}
	if after := tree(t, st.folder); !maps.Equal(before, after) {
		t.Errorf("the repository changed: %v", differences(before, after))
	}
	b.refused(t, st, "wal-push", "--all", b.data) // nothing waits, and there is the segment that its server was writing
	b.put(t, wal1, ofB)
	b.refused(t, st, "wal-push", "pg_wal/"+wal1)
	b.put(t, "00000002.history", []byte("1\t0/A200000\tno recovery target specified\n"))
	b.refused(t, st, "wal-push", "pg_wal/00000002.history")
	b.wait(t, numbered(0), numbered(1), numbered(2))
	b.refused(t, st, "wal-push", "--all", b.data)
	b.serves(t)
	b.refused(t, st, "wal-push", "pg_wal/"+numbered(0)) // a process that works ahead is started
	b.settled(t)
	if names := b.markers(t); len(names) != 0 {
		t.Errorf("archived ahead: %v", names)
	}
	a.mustPush(t, wal2, walSegment(wal2, a.sysid, mib, 1))
	a.fetches(t, wal1, ofA)
	if o, _ := a.fetch(t, wal3); o.code != 1 {
		t.Errorf("the first cluster never had %s: %v", wal3, o)
	}
}

// From the first backup on the catalog says whose the archive is. A cluster that initdb or pg_upgrade has made is entered by
// backup-push; its WAL waits until then, and the older cluster's is still taken. wal-push and wal-receive on real servers.
func TestWALOfAnotherCluster(t *testing.T) {
	for _, c := range []struct {
		first, second int
		flags         []string
	}{{15, 15, []string{"--new-incarnation"}}, {10, 18, nil}} {
		t.Run(fmt.Sprintf("%d and %d", c.first, c.second), func(t *testing.T) {
			st := folderStore(t)
			a := newSite(t, st, pgtest.Options{Major: c.first})
			a.archived(t) // before there is a catalog
			a.backup(t)
			b := newSite(t, st, pgtest.Options{Major: c.second, Conf: []string{"wal_level = replica", "max_wal_senders = 5"}})
			theirs := b.SQL(t, `SELECT system_identifier FROM pg_control_system()`)
			waits := b.SwitchWAL(t)
			b.Eventually(t, `SELECT failed_count > 0 AND archived_count = 0 FROM pg_stat_archiver`, "t")
			if !strings.Contains(b.Log(), "ERROR:  push ") || !strings.Contains(b.Log(), "HINT:  ") {
				t.Errorf("the server's log does not say why: %s", lastLines(b.Log(), 10))
			}
			b.fails(t, nil, exitConflict, says(theirs, "backup-push"), "wal-receive")
			if _, err := os.Stat(filepath.Join(st.folder, "main/wal", theirs)); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("WAL of the second cluster is there: %v", err)
			}
			if len(c.flags) > 0 {
				b.fails(t, nil, exitConflict, says("--new-incarnation"), "backup-push")
			}
			b.backup(t, c.flags...)
			b.archived(t)
			if o := b.run(t, "wal-list", "--json"); o.code != 0 || !strings.Contains(o.out, waits) {
				t.Errorf("what waited is not archived: %v", o)
			}
			a.archived(t)
		})
	}
}

// The check costs no request: the first file of a data directory asks, and what it learns is remembered; for a short time only
// while there is no catalog.
func TestAdmissionCostsNothing(t *testing.T) {
	t.Parallel()
	s := s3server.ForTest(t, s3server.Versity)
	st := s3Store(t, s, "auto")
	proxy := faultproxy.ForTest(t, s.Endpoint)
	st.settings = slices.DeleteFunc(st.settings, func(kv string) bool { return strings.HasPrefix(kv, "PGOBJ_S3_ENDPOINT=") })
	st.settings = append(st.settings, "PGOBJ_S3_ENDPOINT="+proxy.URL)
	r := newWALRig(t, st)
	requests := func(name string) int {
		t.Helper()
		proxy.Reset()
		r.mustPush(t, name, walSegment(name, r.sysid, mib, 1))
		return len(proxy.Requests())
	}
	if n := requests(wal1); n < 2 {
		t.Errorf("the first file is archived with %d requests: nobody has looked whose archive it is", n)
	}
	for _, name := range []string{wal2, wal3} {
		if n := requests(name); n != 1 {
			t.Errorf("%s is archived with %d requests", name, n)
		}
	}
	remembered, err := filepath.Glob(filepath.Join(r.spoolDir(), "admitted-*"))
	if err != nil || len(remembered) != 1 {
		t.Fatalf("remembered: %v, %v", remembered, err)
	}
	// What is damaged, planted, or of another repository is as if it were not there.
	data, err := os.ReadFile(remembered[0])
	must(t, err)
	for what, change := range map[string]func(){
		"damaged":               func() { writeFile(t, remembered[0], strings.Replace(string(data), "202", "203", 1), 0o600) },
		"everybody may write":   func() { must(t, os.Chmod(remembered[0], 0o602)) },
		"another user's":        func() { must(t, os.Chown(remembered[0], 12345, 12345)) },
		"another user's folder": func() { must(t, os.Chown(r.spoolDir(), 12345, 12345)) },
		"gone":                  func() { must(t, os.Remove(remembered[0])) },
	} {
		change()
		proxy.Reset()
		r.put(t, numbered(7), walSegment(numbered(7), r.sysid, mib, 1))
		if o := r.run(t, "wal-push", "pg_wal/"+numbered(7)); o.code != 0 || len(proxy.Requests()) < 2 {
			t.Errorf("%s: archived with %d requests: %v", what, len(proxy.Requests()), o)
		}
		must(t, os.RemoveAll(r.spoolDir()))
		requests(wal1)
		if n := requests(wal1); n > 2 { // the file is compared
			t.Errorf("after that: %d requests", n)
		}
	}
}

// Where the catalog is damaged, archiving goes on for the cluster whose WAL is there, and for no other.
func TestAdmissionWithADamagedCatalog(t *testing.T) {
	st := folderStore(t)
	a := newSite(t, st, pgtest.Options{WALSegMB: 1})
	a.backup(t)
	must(t, os.RemoveAll(filepath.Join(st.folder, "main/catalog/checkpoints")))
	records, err := filepath.Glob(filepath.Join(st.folder, "main/catalog/log/*.json"))
	must(t, err)
	for _, name := range records {
		must(t, os.WriteFile(name, []byte("{"), 0o600))
	}
	must(t, os.RemoveAll(filepath.Join(a.Data, "pgsql_tmp_pgobj")))
	a.archived(t)
	b := newWALRig(t, st)
	b.put(t, wal1, walSegment(wal1, b.sysid, mib, 1))
	b.refused(t, st, "wal-push", "pg_wal/"+wal1)
}

package wal

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
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// Rows 4 and 5: two clusters that archive to one place, by mistake or because initdb made the second. Before the first backup the archive is that of the cluster whose WAL came first; each kind of wal-push refuses another's.
func TestTwoClustersInOnePlace(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	a, b := site.NewWALRig(t, st), site.NewWALRig(t, st)
	ofA, ofB := site.WalSegment(site.Wal1, a.Sysid, site.Mib, 1), site.WalSegment(site.Wal1, b.Sysid, site.Mib, 2)
	a.MustPush(t, site.Wal1, ofA)
	before := site.Tree(t, st.Directory)
	b.Env = append(b.Env, site.JSONLog)
	o, _ := b.Fetch(t, site.Wal1)
	if f := o.MustFail(t, 255, "unknown-archive"); !f.Names(fmt.Sprint(b.Sysid)) {
		t.Errorf("the second cluster has no archive: %+v", f)
	}
	if f := b.Push(t, site.Wal1, ofA).MustFail(t, 11, "invalid-wal-file"); !f.Names(fmt.Sprint(a.Sysid), fmt.Sprint(b.Sysid)) {
		t.Errorf("WAL of the other cluster in pg_wal: %+v", f)
	}
	if after := site.Tree(t, st.Directory); !maps.Equal(before, after) {
		t.Errorf("the repository changed: %v", site.Differences(before, after))
	}
	b.Refused(t, st, "wal-push", "--all", b.Data) // nothing waits, and there is the segment that its server was writing
	b.Put(t, site.Wal1, ofB)
	b.Refused(t, st, "wal-push", "pg_wal/"+site.Wal1)
	b.Put(t, "00000002.history", []byte("1\t0/A200000\tno recovery target specified\n"))
	b.Refused(t, st, "wal-push", "pg_wal/00000002.history")
	b.Wait(t, numbered(0), numbered(1), numbered(2))
	b.Refused(t, st, "wal-push", "--all", b.Data)
	if o := b.Run(t, "wal-push", "--all", b.Data); !strings.Contains(o.Err, "pgobj server-list") || !strings.Contains(o.Err, "--offline "+b.Data) {
		t.Errorf("of a server that was given up: %v", o)
	}
	saved := site.Mkdir(t, filepath.Join(testenv.Dir(t), "saved"), 0o700, -1)
	site.WriteFile(t, filepath.Join(saved, site.Wal1), string(ofB), 0o600)
	if o := b.Run(t, "wal-push", "--all", saved); o.Code != 2 || !strings.Contains(o.Err, "for f in "+saved+"/*; do") {
		t.Errorf("a directory of saved WAL: %v", o)
	}
	b.Serves(t)
	b.Refused(t, st, "wal-push", "pg_wal/"+numbered(0)) // a process that works ahead is started
	b.Settled(t)
	if names := b.Markers(t); len(names) != 0 {
		t.Errorf("archived ahead: %v", names)
	}
	a.MustPush(t, site.Wal2, site.WalSegment(site.Wal2, a.Sysid, site.Mib, 1))
	a.Fetches(t, site.Wal1, ofA)
	if o, _ := a.Fetch(t, site.Wal3); o.Code != 1 {
		t.Errorf("the first cluster never had %s: %v", site.Wal3, o)
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
			st := site.DirectoryStore(t)
			a := site.NewSite(t, st, pgtest.Options{Major: c.first})
			a.Archived(t) // before there is a catalog
			a.Backup(t)
			b := site.NewSite(t, st, pgtest.Options{Major: c.second, Conf: []string{"wal_level = replica", "max_wal_senders = 5"}})
			theirs := b.SQL(t, `SELECT system_identifier FROM pg_control_system()`)
			waits := b.SwitchWAL(t)
			b.Eventually(t, `SELECT failed_count > 0 AND archived_count = 0 FROM pg_stat_archiver`, "t")
			if !strings.Contains(b.Log(), "ERROR:  push ") || !strings.Contains(b.Log(), "HINT:  ") {
				t.Errorf("the server's log does not say why: %s", site.LastLines(b.Log(), 10))
			}
			b.Fails(t, nil, site.ExitConflict, "wrong-cluster", site.Says(theirs), "wal-receive")
			if _, err := os.Stat(filepath.Join(st.Directory, "main/wal", theirs)); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("WAL of the second cluster is there: %v", err)
			}
			if len(c.flags) > 0 {
				b.Fails(t, nil, site.ExitConflict, "catalog-of-other-cluster", site.Says("--new-incarnation"), "backup-push")
			}
			b.Backup(t, c.flags...)
			b.Archived(t)
			if o := b.Run(t, "wal-list", "--json"); o.Code != 0 || !strings.Contains(o.Out, waits) {
				t.Errorf("what waited is not archived: %v", o)
			}
			a.Archived(t)
		})
	}
}

// The check costs no request: the first file of a data directory asks, and what it learns is remembered; for a short time only
// while there is no catalog.
func TestAdmissionCostsNothing(t *testing.T) {
	t.Parallel()
	s := s3server.ForTest(t, s3server.Versity)
	st := site.S3Store(t, s, "auto")
	proxy := faultproxy.ForTest(t, s.Endpoint)
	st.Settings = slices.DeleteFunc(st.Settings, func(kv string) bool { return strings.HasPrefix(kv, "PGOBJ_S3_ENDPOINT=") })
	st.Settings = append(st.Settings, "PGOBJ_S3_ENDPOINT="+proxy.URL)
	r := site.NewWALRig(t, st)
	requests := func(name string) int {
		t.Helper()
		proxy.Reset()
		r.MustPush(t, name, site.WalSegment(name, r.Sysid, site.Mib, 1))
		return len(proxy.Requests())
	}
	if n := requests(site.Wal1); n < 2 {
		t.Errorf("the first file is archived with %d requests: nobody has looked whose archive it is", n)
	}
	for _, name := range []string{site.Wal2, site.Wal3} {
		if n := requests(name); n != 1 {
			t.Errorf("%s is archived with %d requests", name, n)
		}
	}
	remembered, err := filepath.Glob(filepath.Join(r.SpoolDir(), "admitted-*"))
	if err != nil || len(remembered) != 1 {
		t.Fatalf("remembered: %v, %v", remembered, err)
	}
	// What is damaged, planted, or of another repository is as if it were not there.
	data, err := os.ReadFile(remembered[0])
	site.Must(t, err)
	for what, change := range map[string]func(){
		"damaged":                  func() { site.WriteFile(t, remembered[0], strings.Replace(string(data), "202", "203", 1), 0o600) },
		"everybody may write":      func() { site.Must(t, os.Chmod(remembered[0], 0o602)) },
		"another user's":           func() { site.Must(t, os.Chown(remembered[0], 12345, 12345)) },
		"another user's directory": func() { site.Must(t, os.Chown(r.SpoolDir(), 12345, 12345)) },
		"gone":                     func() { site.Must(t, os.Remove(remembered[0])) },
	} {
		change()
		proxy.Reset()
		r.Put(t, numbered(7), site.WalSegment(numbered(7), r.Sysid, site.Mib, 1))
		if o := r.Run(t, "wal-push", "pg_wal/"+numbered(7)); o.Code != 0 || len(proxy.Requests()) < 2 {
			t.Errorf("%s: archived with %d requests: %v", what, len(proxy.Requests()), o)
		}
		site.Must(t, os.RemoveAll(r.SpoolDir()))
		requests(site.Wal1)
		if n := requests(site.Wal1); n > 2 { // the file is compared
			t.Errorf("after that: %d requests", n)
		}
	}
}

// Where the catalog is damaged, archiving goes on for the cluster whose WAL is there, and for no other.
func TestAdmissionWithADamagedCatalog(t *testing.T) {
	st := site.DirectoryStore(t)
	a := site.NewSite(t, st, pgtest.Options{WALSegMB: 1})
	a.Backup(t)
	site.Must(t, os.RemoveAll(filepath.Join(st.Directory, "main/catalog/checkpoints")))
	records, err := filepath.Glob(filepath.Join(st.Directory, "main/catalog/log/*.json"))
	site.Must(t, err)
	for _, name := range records {
		site.Must(t, os.WriteFile(name, []byte("{"), 0o600))
	}
	site.Must(t, os.RemoveAll(filepath.Join(a.Data, "pgsql_tmp_pgobj")))
	a.Archived(t)
	b := site.NewWALRig(t, st)
	b.Put(t, site.Wal1, site.WalSegment(site.Wal1, b.Sysid, site.Mib, 1))
	b.Refused(t, st, "wal-push", "pg_wal/"+site.Wal1)
}

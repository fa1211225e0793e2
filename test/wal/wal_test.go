package wal

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/test/waltest"
	"github.com/pgobj/pgobj/walstore/segment"
)

// stores runs a test on each kind of storage.
func stores(t *testing.T, test func(t *testing.T, r *site.WalRig)) {
	t.Parallel()
	minio := s3server.ForTest(t, s3server.MinIO)
	for name, st := range map[string]func(t testing.TB) site.Store{
		"directory": site.DirectoryStore,
		"MinIO":     func(t testing.TB) site.Store { return site.S3Store(t, minio, "minio") },
		"MinIO aws": func(t testing.TB) site.Store {
			st := site.S3Store(t, minio, "aws")
			st.Settings = append(st.Settings, "PGOBJ_SERVER=second") // another cluster than that of "MinIO"
			return st
		},
		"versitygw": func(t testing.TB) site.Store { st, _ := site.VersityStore(t); return st },
	} {
		t.Run(name, func(t *testing.T) { test(t, site.NewWALRig(t, st(t))) })
	}
}

// Rows 1, 2, 7, 8 of the failure modes: what is stored stays, whatever is pushed under its name.
func TestWALIsNeverReplaced(t *testing.T) {
	stores(t, func(t *testing.T, r *site.WalRig) {
		files := map[string][]byte{
			site.Wal1:                      site.WalSegment(site.Wal1, r.Sysid, site.Mib, 1),
			site.Wal2 + ".partial":         site.WalSegment(site.Wal2, r.Sysid, site.Mib, 2),
			"00000002.history":             []byte("1\t0/A200000\tno recovery target specified\n"),
			site.Wal1 + ".00000028.backup": []byte("START WAL LOCATION: 0/A100028 (file " + site.Wal1 + ")\n"),
		}
		for name, data := range files {
			r.MustPush(t, name, data)
		}
		var before map[string]string
		if r.Repo != "" {
			before = site.Tree(t, r.Repo)
		}
		for name, data := range files {
			r.MustPush(t, name, data)
			other := bytes.Clone(data)
			other[len(other)-2] ^= 1
			if o := r.Push(t, name, other); o.Code != 7 || strings.Count(o.Err, "SHA-256") != 1 {
				t.Errorf("other content for %s: %v", name, o)
			}
			r.Fetches(t, name, data)
		}
		if o, _ := r.Fetch(t, site.Wal2); o.Code != 1 || o.Err != "" {
			t.Errorf("only %s.partial is there: %v", site.Wal2, o)
		}
		if r.Repo != "" {
			if after := site.Tree(t, r.Repo); !maps.Equal(before, after) {
				t.Errorf("the repository changed: %v", site.Differences(before, after))
			}
		}
		r.MustPush(t, site.Wal2, site.WalSegment(site.Wal2, r.Sysid, site.Mib, 3))
		r.Fetches(t, site.Wal2+".partial", files[site.Wal2+".partial"])
	})
}

// Row 18: a crash can leave two files that differ from some record on. Neither is taken for the other, and it is said how to
// see which is right.
func TestWALWithAnotherTail(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	full := site.WalSegment(site.Wal1, r.Sysid, site.Mib, 1)
	cut := slices.Concat(full[:site.Mib/2+24], make([]byte, site.Mib/2-24))
	for name, pair := range map[string][2][]byte{site.Wal1: {full, cut}, site.Wal2: {cut, full}} {
		a, b := bytes.Clone(pair[0]), bytes.Clone(pair[1])
		copy(a, site.WalHeader(name, r.Sysid, site.Mib))
		copy(b, site.WalHeader(name, r.Sysid, site.Mib))
		r.MustPush(t, name, a)
		if o := r.Push(t, name, b); o.Code != site.ExitConflict || !strings.Contains(o.Err, "pg_waldump") {
			t.Errorf("%s with another tail: %v", name, o)
		}
		r.Fetches(t, name, a)
	}
}

// Row 3: of those who push different content under one name at one moment, one succeeds.
func TestWALPushRace(t *testing.T) {
	t.Parallel()
	rounds := 15
	if site.Torture() {
		rounds = 2000
	}
	t.Run("directory", func(t *testing.T) {
		r := site.NewWALRig(t, site.DirectoryStore(t))
		for round := range rounds {
			r.Race(t, round, 2, func() {})
		}
	})
	for _, kind := range []s3server.Kind{s3server.Versity, s3server.MinIO} {
		t.Run(string(kind), func(t *testing.T) {
			server := s3server.ForTest(t, kind)
			r := site.NewWALRig(t, site.S3Store(t, server, "auto"))
			proxy := faultproxy.ForTest(t, server.Endpoint)
			r.Env = append(r.Env, "PGOBJ_S3_ENDPOINT="+proxy.URL)
			for round := range rounds {
				pushers := 2 + round%2
				// All requests reach the server at once.
				all := make(chan struct{})
				var arrived sync.WaitGroup
				arrived.Add(pushers)
				go func() { arrived.Wait(); close(all) }()
				put := faultproxy.Method("PUT")
				proxy.Times(pushers, put, faultproxy.Hook(func(faultproxy.Request) { arrived.Done() }))
				proxy.Times(pushers, put, faultproxy.Hold(all))
				r.Race(t, round, pushers, proxy.Reset)
			}
		})
	}
}

// Rows 9 and 10, and 28 where the disk is at fault.
func TestWALPushRefuses(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	r := site.NewWALRig(t, st)
	good := site.WalSegment(site.Wal1, r.Sysid, 16*site.Mib, 1)
	for what, f := range map[string]struct {
		name string
		data []byte
		code int
	}{
		"half":             {site.Wal1, good[:8*site.Mib], 11},
		"empty":            {site.Wal1, nil, 11},
		"one byte short":   {site.Wal1, good[:16*site.Mib-1], 11},
		"one byte long":    {site.Wal1, append(bytes.Clone(good), 0), 11},
		"recycled":         {site.Wal2, good, 11},
		"zeros":            {site.Wal1, make([]byte, 16*site.Mib), 11},
		"empty history":    {"00000002.history", nil, 11},
		"a temporary name": {"xlogtemp.17", good, 2},
		"lower case":       {strings.ToLower(site.Wal1), good, 2},
		"23 digits":        {site.Wal1[:23], good, 2},
	} {
		if o := r.Push(t, f.name, f.data); o.Code != f.code {
			t.Errorf("%s: %v", what, o)
		}
	}
	for _, name := range []string{"pg_wal/" + site.Wal3, "pg_wal/", "", "../" + site.Wal1 + "/.."} {
		o := r.Run(t, "wal-push", name)
		if site.CheckPushCode(t, o); o.Code == 0 {
			t.Errorf("wal-push %q: %v", name, o)
		}
	}
	for _, name := range []string{"../" + site.Wal1, "RECOVERYXLOG", "", site.Wal1[:23], site.Wal1 + ".zst"} {
		if o, _ := r.Fetch(t, name); o.Code != 255 {
			t.Errorf("wal-fetch %q: %v", name, o)
		}
	}
	if entries, err := os.ReadDir(st.Directory); err != nil || len(entries) != 0 {
		t.Errorf("something was stored: %v, %v", entries, err)
	}
}

// Row 11, with the largest size there is; memory must not grow with it, nor with what cannot be compressed.
func TestLargestSegment(t *testing.T) {
	t.Parallel()
	random := 256 * site.Mib
	if site.Torture() {
		random = 1 << 30
	}
	t.Run("zeros", func(t *testing.T) { largeSegment(t, 1<<30, 0) })
	t.Run("random", func(t *testing.T) { largeSegment(t, random, int64(random)) })
}

// largeSegment archives and fetches a segment whose first bytes are random.
func largeSegment(t *testing.T, size int, random int64) {
	r := site.NewWALRig(t, site.DirectoryStore(t))
	const name = "000000010000000100000003"
	path := r.Put(t, name, site.WalHeader(name, r.Sysid, size))
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{}), max(0, random-segment.HeaderSize)); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(testenv.Dir(t), "fetched")
	for _, args := range [][]string{{"wal-push", path}, {"wal-fetch", name, dest}} {
		o, peak := site.WithPeak(t, r.Command(r.Pgobj, args...))
		if o.Code != 0 {
			t.Fatalf("%v: %v", args, o)
		}
		if t.Logf("%s: %d MiB of memory", args[0], peak); peak == 0 || peak > 150 {
			t.Errorf("%s took %d MiB of memory", args[0], peak)
		}
	}
	if out, err := exec.Command("cmp", path, dest).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// pg_rewind runs restore_command from anywhere, with an absolute path and no PGDATA.
func TestWALFetchFromElsewhere(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	data := site.WalSegment(site.Wal1, r.Sysid, site.Mib, 1)
	r.MustPush(t, site.Wal1, data)
	elsewhere := testenv.Dir(t)
	for what, c := range map[string]struct {
		dest string
		env  []string
		code int
	}{
		"a path in the data directory": {filepath.Join(r.Data, "pg_wal", site.Wal1), nil, 0},
		"PGDATA":                       {filepath.Join(elsewhere, site.Wal1), []string{"PGDATA=" + r.Data}, 0},
		"no data directory":            {filepath.Join(elsewhere, site.Wal2), nil, 255},
	} {
		cmd := r.Command(r.Pgobj, "wal-fetch", site.Wal1, c.dest)
		cmd.Dir = elsewhere
		cmd.Env = append(cmd.Env, c.env...)
		o := site.Execute(t, cmd, nil)
		got, err := os.ReadFile(c.dest)
		if o.Code != c.code || (c.code == 0) != (err == nil && bytes.Equal(got, data)) {
			t.Errorf("%s: %v, %d bytes, %v", what, o, len(got), err)
		}
	}
}

// Killed at any moment that could matter, wal-push leaves no object or a whole one, and the next one succeeds.
func TestWALPushKilled(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	data := waltest.Minimal(site.WalSegment(site.Wal1, r.Sysid, site.Mib, 1))
	r.Put(t, site.Wal1, data)
	stored := filepath.Join(r.Repo, "main/wal", fmt.Sprint(r.Sysid), "00000001", site.Wal1+".zst")
	alone := 0 // a note without its segment: killed between the two
	r.Killed(t, []string{"openat", "write", "fsync", "linkat", "mkdirat", "close"}, func() {
		site.Must(t, os.RemoveAll(filepath.Join(r.Repo, "main")))
	}, func(what string, o site.Outcome) {
		notes, err := filepath.Glob(filepath.Dir(stored) + "/*.parameters")
		site.Must(t, err)
		if _, err := os.Stat(stored); err == nil || o.Code == 0 {
			r.Fetches(t, site.Wal1, data)
			if len(notes) != 1 {
				t.Errorf("%s is there, and of its notes %q: %s", site.Wal1, notes, what)
			}
		} else {
			alone += len(notes)
		}
		r.MustPush(t, site.Wal1, data)
		r.Fetches(t, site.Wal1, data)
		if t.Failed() {
			t.Fatal(what)
		}
	}, "wal-push", "pg_wal/"+site.Wal1)
	if alone == 0 {
		t.Error("it was never killed between the note and the segment")
	}
}

// Row 28: killed at any moment that could matter, wal-fetch leaves no file or a whole one.
func TestWALFetchKilled(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	data := site.WalSegment(site.Wal1, r.Sysid, site.Mib, 1)
	r.MustPush(t, site.Wal1, data)
	dest := filepath.Join(r.Data, "pg_wal", "RECOVERYXLOG")
	r.Killed(t, []string{"openat", "write", "fsync", "renameat", "close"}, func() {
		_ = os.Remove(dest)
	}, func(what string, o site.Outcome) {
		got, err := os.ReadFile(dest)
		if err == nil && !bytes.Equal(got, data) {
			t.Fatalf("%s: there is a file of %d bytes", what, len(got))
		}
		if o.Code == 0 && err != nil {
			t.Fatalf("%s: success without a file", what)
		}
	}, "wal-fetch", site.Wal1, dest)
	left := func() []string {
		names, err := filepath.Glob(filepath.Join(r.Data, "pg_wal", ".pgobj-*"))
		site.Must(t, err)
		return names
	}
	if n := len(left()); n > 1 {
		t.Errorf("%d temporary files are left over", n)
	}
	site.Must(t, os.Remove(dest))
	if o := site.Execute(t, r.Command(r.Pgobj, "wal-fetch", site.Wal1, dest), nil); o.Code != 0 {
		t.Error(o)
	}
	if left := left(); len(left) > 0 {
		t.Errorf("%v are left over for good", left)
	}
	r.Fetches(t, site.Wal1, data)
}

// Row 15 on the real archiver: it counts every failure, survives, and archives all in the end. Row 11 by the way.
func TestArchiverSurvivesFailures(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			st, server := site.VersityStore(t)
			proxy := faultproxy.ForTest(t, server.Endpoint)
			st.Settings = append(st.Settings, "PGOBJ_S3_ENDPOINT="+proxy.URL, "PGOBJ_TIMEOUT=1s")
			proxy.On(faultproxy.Always, faultproxy.Fail(503, "SlowDown"))
			s := site.NewSite(t, st, pgtest.Options{WALSegMB: size})
			s.Exec(t, `CREATE TABLE x AS SELECT generate_series(1, 1000) i`)
			archiver := `SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'`
			s.Exec(t, `SELECT pg_switch_wal()`)
			s.Eventually(t, `SELECT failed_count >= 3 FROM pg_stat_archiver`, "t")
			pid := s.SQL(t, archiver)
			s.Exec(t, `INSERT INTO x SELECT generate_series(1, 1000)`)
			s.Exec(t, `SELECT pg_switch_wal()`) // wakes the archiver, which waits for a minute after three failures
			s.Eventually(t, `SELECT failed_count >= 4 FROM pg_stat_archiver`, "t")
			if n := s.SQL(t, `SELECT archived_count FROM pg_stat_archiver`); n != "0" { // row 14: nothing is ever given up
				t.Errorf("%s files are archived, the server believes", n)
			}
			if now := s.SQL(t, archiver); pid == "" || now != pid {
				t.Errorf("the archiver was %q and is %q", pid, now)
			}
			proxy.Reset()
			s.Exec(t, `INSERT INTO x SELECT generate_series(1, 1000)`)
			s.Archived(t)
			if failed := strings.Count(s.Log(), "archive command was terminated"); failed != 0 {
				t.Errorf("%d commands ended by a signal", failed)
			}
		})
	}
}

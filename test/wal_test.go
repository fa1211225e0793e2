package test

import (
	"bytes"
	"encoding/binary"
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
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/segment"
)

// walRig is a stopped cluster's data folder, to run wal-push and wal-fetch in as PostgreSQL does, and files
// in its pg_wal as they could be there.
type walRig struct {
	data  string
	sysid uint64
	pgobj string
	env   []string
	repo  string // as a folder, where the server stores plain files
}

func newWALRig(t testing.TB, st store) *walRig {
	t.Helper()
	c, err := pgtest.Create(t.Context(), pgtest.Options{WALSegMB: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	control, err := os.ReadFile(filepath.Join(c.Data, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	return &walRig{data: c.Data, sysid: binary.LittleEndian.Uint64(control), pgobj: testenv.Pgobj(t),
		env: slices.Concat(st.settings, st.credentials), repo: st.folder}
}

func versityStore(t testing.TB) (store, *s3server.Server) {
	t.Helper()
	s := s3server.ForTest(t, s3server.Versity)
	st := s3Store(t, s, "auto")
	st.folder = filepath.Join(s.Dir, "team/pg")
	return st, s
}

// walSegment is a segment that PostgreSQL 15 could have written, filled with fill.
func walSegment(name string, sysid uint64, size int, fill byte) []byte {
	header := walHeader(name, sysid, size)
	return append(header, bytes.Repeat([]byte{fill}, size-len(header))...)
}

func walHeader(name string, sysid uint64, size int) []byte {
	seg, err := segment.ParseName(name[:24], segment.Size(size))
	if err != nil {
		panic(err)
	}
	b := make([]byte, segment.HeaderSize)
	le := binary.LittleEndian
	le.PutUint16(b[0:], 0xD110)
	le.PutUint16(b[2:], 2)
	le.PutUint32(b[4:], uint32(seg.Timeline))
	le.PutUint64(b[8:], uint64(seg.Start(segment.Size(size))))
	le.PutUint64(b[24:], sysid)
	le.PutUint32(b[32:], uint32(size))
	le.PutUint32(b[36:], 8192)
	return b
}

const (
	mib  = 1 << 20
	wal1 = "0000000100000000000000A1"
	wal2 = "0000000100000000000000A2"
	wal3 = "0000000100000000000000A3"
)

func (r *walRig) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = r.data
	cmd.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH")}, r.env)
	return testenv.AsPostgres(cmd)
}

func (r *walRig) run(t testing.TB, args ...string) outcome {
	t.Helper()
	return execute(t, r.command(r.pgobj, args...), nil)
}

// push archives a file of pg_wal. A failure has to be one that the archiver survives.
func (r *walRig) push(t testing.TB, name string, data []byte, args ...string) outcome {
	t.Helper()
	r.put(t, name, data)
	o := r.run(t, append([]string{"wal-push", "pg_wal/" + name}, args...)...)
	checkPushCode(t, o)
	return o
}

func (r *walRig) put(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(r.data, "pg_wal", name)
	writeFile(t, path, string(data), 0o600)
	return path
}

func checkPushCode(t testing.TB, o outcome) {
	t.Helper()
	switch {
	case o.code < 0 || o.code > 125:
		t.Errorf("the archiver would die of this: %v", o)
	case o.code == 0 && o.out+o.err != "":
		t.Errorf("not quiet: %v", o)
	case o.code != 0 && strings.Count(o.err, "ERROR:  ") != 1:
		t.Errorf("no clear error: %v", o)
	}
}

func (r *walRig) mustPush(t testing.TB, name string, data []byte) {
	t.Helper()
	if o := r.push(t, name, data); o.code != 0 {
		t.Fatalf("wal-push %s: %v", name, o)
	}
}

// fetch asks as recovery does. dest is gone before and has to be gone after any failure.
func (r *walRig) fetch(t testing.TB, name string, args ...string) (outcome, []byte) {
	t.Helper()
	dest := filepath.Join(r.data, "pg_wal/RECOVERYXLOG")
	if err := os.RemoveAll(dest); err != nil {
		t.Fatal(err)
	}
	before := tree(t, filepath.Dir(dest))
	left := filepath.Join(filepath.Dir(dest), ".pgobj-RECOVERYXLOG.tmp") // of one that was killed: it is used again
	if _, err := os.Lstat(left); err == nil {
		must(t, os.Remove(left))
		before = tree(t, filepath.Dir(dest))
	}
	o := r.run(t, append([]string{"wal-fetch", name, "pg_wal/RECOVERYXLOG", "--retry-for=1s"}, args...)...)
	data, err := os.ReadFile(dest)
	if (o.code == 0) != (err == nil) {
		t.Errorf("wal-fetch %s: %v, and the file: %v", name, o, err)
	}
	if err == nil {
		_ = os.Remove(dest)
	}
	if after := tree(t, filepath.Dir(dest)); !maps.Equal(before, after) {
		t.Errorf("wal-fetch %s left %v", name, differences(before, after))
	}
	return o, data
}

func (r *walRig) fetches(t testing.TB, name string, want []byte) {
	t.Helper()
	if o, got := r.fetch(t, name); o.code != 0 || o.out+o.err != "" || !bytes.Equal(got, want) {
		t.Errorf("wal-fetch %s gives %d bytes of %d: %v", name, len(got), len(want), o)
	}
}

// stores runs a test on each kind of storage.
func stores(t *testing.T, test func(t *testing.T, r *walRig)) {
	t.Parallel()
	minio := s3server.ForTest(t, s3server.MinIO)
	for name, st := range map[string]func(t testing.TB) store{
		"folder":    folderStore,
		"MinIO":     func(t testing.TB) store { return s3Store(t, minio, "minio") },
		"MinIO aws": func(t testing.TB) store { return s3Store(t, minio, "aws") },
		"versitygw": func(t testing.TB) store { st, _ := versityStore(t); return st },
	} {
		t.Run(name, func(t *testing.T) { test(t, newWALRig(t, st(t))) })
	}
}

// Rows 1, 2, 7, 8 of the failure modes: what is stored stays, whatever is pushed under its name.
func TestWALIsNeverReplaced(t *testing.T) {
	stores(t, func(t *testing.T, r *walRig) {
		files := map[string][]byte{
			wal1:                      walSegment(wal1, r.sysid, mib, 1),
			wal2 + ".partial":         walSegment(wal2, r.sysid, mib, 2),
			"00000002.history":        []byte("1\t0/A200000\tno recovery target specified\n"),
			wal1 + ".00000028.backup": []byte("START WAL LOCATION: 0/A100028 (file " + wal1 + ")\n"),
		}
		for name, data := range files {
			r.mustPush(t, name, data)
		}
		var before map[string]string
		if r.repo != "" {
			before = tree(t, r.repo)
		}
		for name, data := range files {
			r.mustPush(t, name, data)
			other := bytes.Clone(data)
			other[len(other)-2] ^= 1
			if o := r.push(t, name, other); o.code != 7 || strings.Count(o.err, "SHA-256") != 1 {
				t.Errorf("other content for %s: %v", name, o)
			}
			r.fetches(t, name, data)
		}
		if o, _ := r.fetch(t, wal2); o.code != 1 || o.err != "" {
			t.Errorf("only %s.partial is there: %v", wal2, o)
		}
		if r.repo != "" {
			if after := tree(t, r.repo); !maps.Equal(before, after) {
				t.Errorf("the repository changed: %v", differences(before, after))
			}
		}
		r.mustPush(t, wal2, walSegment(wal2, r.sysid, mib, 3))
		r.fetches(t, wal2+".partial", files[wal2+".partial"])
	})
}

// Row 18: a crash can leave two files that differ from some record on. Neither is taken for the other, and it is said how to
// see which is right.
func TestWALWithAnotherTail(t *testing.T) {
	t.Parallel()
	r := newWALRig(t, folderStore(t))
	full := walSegment(wal1, r.sysid, mib, 1)
	cut := slices.Concat(full[:mib/2+24], make([]byte, mib/2-24))
	for name, pair := range map[string][2][]byte{wal1: {full, cut}, wal2: {cut, full}} {
		a, b := bytes.Clone(pair[0]), bytes.Clone(pair[1])
		copy(a, walHeader(name, r.sysid, mib))
		copy(b, walHeader(name, r.sysid, mib))
		r.mustPush(t, name, a)
		if o := r.push(t, name, b); o.code != exitConflict || !strings.Contains(o.err, "pg_waldump") {
			t.Errorf("%s with another tail: %v", name, o)
		}
		r.fetches(t, name, a)
	}
}

// Row 3: of those who push different content under one name at one moment, one succeeds.
func TestWALPushRace(t *testing.T) {
	t.Parallel()
	rounds := 15
	if torture() {
		rounds = 2000
	}
	t.Run("folder", func(t *testing.T) {
		r := newWALRig(t, folderStore(t))
		for round := range rounds {
			r.race(t, round, 2, func() {})
		}
	})
	for _, kind := range []s3server.Kind{s3server.Versity, s3server.MinIO} {
		t.Run(string(kind), func(t *testing.T) {
			server := s3server.ForTest(t, kind)
			r := newWALRig(t, s3Store(t, server, "auto"))
			proxy := faultproxy.ForTest(t, server.Endpoint)
			r.env = append(r.env, "PGOBJ_S3_ENDPOINT="+proxy.URL)
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
				r.race(t, round, pushers, proxy.Reset)
			}
		})
	}
}

// race lets processes push different contents under one name: exactly one wins, and its bytes are stored.
func (r *walRig) race(t *testing.T, round, pushers int, raced func()) {
	t.Helper()
	name := fmt.Sprintf("00000001%08X000000A0", round)
	codes, texts, contents := make([]int, pushers), make([]string, pushers), make([][]byte, pushers)
	dir := testenv.Dir(t)
	var done sync.WaitGroup
	for i := range pushers {
		contents[i] = walSegment(name, r.sysid, mib, byte(i+1))
		path := filepath.Join(dir, fmt.Sprint(i), name)
		must(t, os.Mkdir(filepath.Dir(path), 0o755))
		writeFile(t, path, string(contents[i]), 0o600)
		done.Go(func() {
			o := execute(t, r.command(r.pgobj, "wal-push", path), nil)
			checkPushCode(t, o)
			codes[i], texts[i] = o.code, o.err
		})
	}
	done.Wait()
	raced()
	winner := slices.Index(codes, 0)
	slices.Sort(codes)
	if winner < 0 || codes[0] != 0 || codes[1] != exitConflict || codes[pushers-1] != exitConflict {
		t.Errorf("round %d: exit codes %v: %s", round, codes, texts)
		return
	}
	if o, got := r.fetch(t, name); o.code != 0 || !bytes.Equal(got, contents[winner]) {
		stored := slices.IndexFunc(contents, func(c []byte) bool { return bytes.Equal(got, c) })
		t.Errorf("round %d: pusher %d won, and the archive has that of %d: %v: %s", round, winner, stored, o, texts)
	}
	must(t, os.RemoveAll(dir))
}

// Rows 9 and 10, and 28 where the disk is at fault.
func TestWALPushRefuses(t *testing.T) {
	t.Parallel()
	st := folderStore(t)
	r := newWALRig(t, st)
	good := walSegment(wal1, r.sysid, 16*mib, 1)
	for what, f := range map[string]struct {
		name string
		data []byte
		code int
	}{
		"half":             {wal1, good[:8*mib], 11},
		"empty":            {wal1, nil, 11},
		"one byte short":   {wal1, good[:16*mib-1], 11},
		"one byte long":    {wal1, append(bytes.Clone(good), 0), 11},
		"recycled":         {wal2, good, 11},
		"zeros":            {wal1, make([]byte, 16*mib), 11},
		"empty history":    {"00000002.history", nil, 11},
		"a temporary name": {"xlogtemp.17", good, 2},
		"lower case":       {strings.ToLower(wal1), good, 2},
		"23 digits":        {wal1[:23], good, 2},
	} {
		if o := r.push(t, f.name, f.data); o.code != f.code {
			t.Errorf("%s: %v", what, o)
		}
	}
	for _, name := range []string{"pg_wal/" + wal3, "pg_wal/", "", "../" + wal1 + "/.."} {
		o := r.run(t, "wal-push", name)
		if checkPushCode(t, o); o.code == 0 {
			t.Errorf("wal-push %q: %v", name, o)
		}
	}
	for _, name := range []string{"../" + wal1, "RECOVERYXLOG", "", wal1[:23], wal1 + ".zst"} {
		if o, _ := r.fetch(t, name); o.code != 255 {
			t.Errorf("wal-fetch %q: %v", name, o)
		}
	}
	if entries, err := os.ReadDir(st.folder); err != nil || len(entries) != 0 {
		t.Errorf("something was stored: %v, %v", entries, err)
	}
}

// Row 11, with the largest size there is; memory must not grow with it, nor with what cannot be compressed.
func TestLargestSegment(t *testing.T) {
	t.Parallel()
	random := 256 * mib
	if torture() {
		random = 1 << 30
	}
	t.Run("zeros", func(t *testing.T) { largeSegment(t, 1<<30, 0) })
	t.Run("random", func(t *testing.T) { largeSegment(t, random, int64(random)) })
}

// largeSegment archives and fetches a segment whose first bytes are random.
func largeSegment(t *testing.T, size int, random int64) {
	r := newWALRig(t, folderStore(t))
	const name = "000000010000000100000003"
	path := r.put(t, name, walHeader(name, r.sysid, size))
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
		o, peak := withPeak(t, r.command(r.pgobj, args...))
		if o.code != 0 {
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
	r := newWALRig(t, folderStore(t))
	data := walSegment(wal1, r.sysid, mib, 1)
	r.mustPush(t, wal1, data)
	elsewhere := testenv.Dir(t)
	for what, c := range map[string]struct {
		dest string
		env  []string
		code int
	}{
		"a path in the data folder": {filepath.Join(r.data, "pg_wal", wal1), nil, 0},
		"PGDATA":                    {filepath.Join(elsewhere, wal1), []string{"PGDATA=" + r.data}, 0},
		"no data folder":            {filepath.Join(elsewhere, wal2), nil, 255},
	} {
		cmd := r.command(r.pgobj, "wal-fetch", wal1, c.dest)
		cmd.Dir = elsewhere
		cmd.Env = append(cmd.Env, c.env...)
		o := execute(t, cmd, nil)
		got, err := os.ReadFile(c.dest)
		if o.code != c.code || (c.code == 0) != (err == nil && bytes.Equal(got, data)) {
			t.Errorf("%s: %v, %d bytes, %v", what, o, len(got), err)
		}
	}
}

// killed runs pgobj until it ends well, and kills it by SIGKILL at its first such system call, at the second, and so on; in the
// long form at each of any kind, too.
func (r *walRig) killed(t *testing.T, calls []string, before func(), after func(what string, o outcome), args ...string) {
	t.Helper()
	strace := testenv.Tool(t, "strace")
	if torture() {
		calls = append(slices.Clone(calls), "all")
	}
	killed := 0
	for _, call := range calls {
		for n := 1; ; n++ {
			if call == "write" && n > 6 || call == "close" && n > 12 {
				break // the data goes out in many equal pieces
			}
			before()
			o := execute(t, r.command(strace, append([]string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e",
				fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n), r.pgobj}, args...)...), nil)
			after(fmt.Sprintf("killed at %s %d", call, n), o)
			if o.code == 0 {
				break
			}
			killed++
		}
	}
	if t.Logf("killed %d times", killed); killed < 20 {
		t.Errorf("killed only %d times", killed)
	}
}

// Killed at any moment that could matter, wal-push leaves no object or a whole one, and the next one succeeds.
func TestWALPushKilled(t *testing.T) {
	t.Parallel()
	r := newWALRig(t, folderStore(t))
	data := walSegment(wal1, r.sysid, mib, 1)
	r.put(t, wal1, data)
	stored := filepath.Join(r.repo, "main/wal", fmt.Sprint(r.sysid), "00000001", wal1+".zst")
	r.killed(t, []string{"openat", "write", "fsync", "linkat", "mkdirat", "close"}, func() {
		must(t, os.RemoveAll(filepath.Join(r.repo, "main")))
	}, func(what string, o outcome) {
		if _, err := os.Stat(stored); err == nil || o.code == 0 {
			r.fetches(t, wal1, data)
		}
		r.mustPush(t, wal1, data)
		r.fetches(t, wal1, data)
		if t.Failed() {
			t.Fatal(what)
		}
	}, "wal-push", "pg_wal/"+wal1)
}

// Row 28: killed at any moment that could matter, wal-fetch leaves no file or a whole one.
func TestWALFetchKilled(t *testing.T) {
	t.Parallel()
	r := newWALRig(t, folderStore(t))
	data := walSegment(wal1, r.sysid, mib, 1)
	r.mustPush(t, wal1, data)
	dest := filepath.Join(r.data, "pg_wal", "RECOVERYXLOG")
	r.killed(t, []string{"openat", "write", "fsync", "renameat", "close"}, func() {
		_ = os.Remove(dest)
	}, func(what string, o outcome) {
		got, err := os.ReadFile(dest)
		if err == nil && !bytes.Equal(got, data) {
			t.Fatalf("%s: there is a file of %d bytes", what, len(got))
		}
		if o.code == 0 && err != nil {
			t.Fatalf("%s: success without a file", what)
		}
	}, "wal-fetch", wal1, dest)
	left := func() []string {
		names, err := filepath.Glob(filepath.Join(r.data, "pg_wal", ".pgobj-*"))
		must(t, err)
		return names
	}
	if n := len(left()); n > 1 {
		t.Errorf("%d temporary files are left over", n)
	}
	must(t, os.Remove(dest))
	if o := execute(t, r.command(r.pgobj, "wal-fetch", wal1, dest), nil); o.code != 0 {
		t.Error(o)
	}
	if left := left(); len(left) > 0 {
		t.Errorf("%v are left over for good", left)
	}
	r.fetches(t, wal1, data)
}

// Row 15 on the real archiver: it counts every failure, survives, and archives all in the end. Row 11 by the way.
func TestArchiverSurvivesFailures(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			st, server := versityStore(t)
			proxy := faultproxy.ForTest(t, server.Endpoint)
			st.settings = append(st.settings, "PGOBJ_S3_ENDPOINT="+proxy.URL, "PGOBJ_TIMEOUT=1s")
			proxy.On(faultproxy.Always, faultproxy.Fail(503, "SlowDown"))
			s := newSite(t, st, pgtest.Options{WALSegMB: size})
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
			s.archived(t)
			if failed := strings.Count(s.Log(), "archive command was terminated"); failed != 0 {
				t.Errorf("%d commands ended by a signal", failed)
			}
		})
	}
}

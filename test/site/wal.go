package site

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/segment"
)

// WalRig is a stopped cluster's data directory, to run wal-push and wal-fetch in as PostgreSQL does, and files
// in its pg_wal as they could be there.
type WalRig struct {
	Data  string
	Sysid uint64
	Pgobj string
	Env   []string
	Repo  string // as a directory, where the server stores plain files

	standIn int // process that stands in for the postmaster; 0: there is none
}

func NewWALRig(t testing.TB, st Store) *WalRig {
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
	return &WalRig{Data: c.Data, Sysid: binary.LittleEndian.Uint64(control), Pgobj: testenv.Pgobj(t),
		Env: slices.Concat(st.Settings, st.Credentials), Repo: st.Directory}
}

func VersityStore(t testing.TB) (Store, *s3server.Server) {
	t.Helper()
	s := s3server.ForTest(t, s3server.Versity)
	st := S3Store(t, s, "auto")
	st.Directory = filepath.Join(s.Dir, "team/pg")
	return st, s
}

// WalSegment is a segment that PostgreSQL 15 could have written, filled with fill.
func WalSegment(name string, sysid uint64, size int, fill byte) []byte {
	header := WalHeader(name, sysid, size)
	return append(header, bytes.Repeat([]byte{fill}, size-len(header))...)
}

func WalHeader(name string, sysid uint64, size int) []byte {
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
	Mib  = 1 << 20
	Wal1 = "0000000100000000000000A1"
	Wal2 = "0000000100000000000000A2"
	Wal3 = "0000000100000000000000A3"
)

func (r *WalRig) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = r.Data
	cmd.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH")}, r.Env)
	return testenv.AsPostgres(cmd)
}

func (r *WalRig) Run(t testing.TB, args ...string) Outcome {
	t.Helper()
	return Execute(t, r.Command(r.Pgobj, args...), nil)
}

// Push archives a file of pg_wal. A failure has to be one that the archiver survives.
func (r *WalRig) Push(t testing.TB, name string, data []byte, args ...string) Outcome {
	t.Helper()
	r.Put(t, name, data)
	o := r.Run(t, append([]string{"wal-push", "pg_wal/" + name}, args...)...)
	CheckPushCode(t, o)
	return o
}

func (r *WalRig) Put(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(r.Data, "pg_wal", name)
	WriteFile(t, path, string(data), 0o600)
	return path
}

func CheckPushCode(t testing.TB, o Outcome) {
	t.Helper()
	switch {
	case o.Code < 0 || o.Code > 125:
		t.Errorf("the archiver would die of this: %v", o)
	case o.Code == 0 && o.Out+o.Err != "":
		t.Errorf("not quiet: %v", o)
	case o.Code != 0 && strings.Count(o.Err, "ERROR:  ") != 1 && o.Failure().Kind == "":
		t.Errorf("no clear error: %v", o)
	}
}

func (r *WalRig) MustPush(t testing.TB, name string, data []byte) {
	t.Helper()
	if o := r.Push(t, name, data); o.Code != 0 {
		t.Fatalf("wal-push %s: %v", name, o)
	}
}

// Fetch asks as recovery does. dest is gone before and has to be gone after any failure.
func (r *WalRig) Fetch(t testing.TB, name string, args ...string) (Outcome, []byte) {
	t.Helper()
	dest := filepath.Join(r.Data, "pg_wal/RECOVERYXLOG")
	if err := os.RemoveAll(dest); err != nil {
		t.Fatal(err)
	}
	before := Tree(t, filepath.Dir(dest))
	left := filepath.Join(filepath.Dir(dest), ".pgobj-RECOVERYXLOG.tmp") // of one that was killed: it is used again
	if _, err := os.Lstat(left); err == nil {
		Must(t, os.Remove(left))
		before = Tree(t, filepath.Dir(dest))
	}
	o := r.Run(t, append([]string{"wal-fetch", name, "pg_wal/RECOVERYXLOG", "--retry-for=1s"}, args...)...)
	data, err := os.ReadFile(dest)
	if (o.Code == 0) != (err == nil) {
		t.Errorf("wal-fetch %s: %v, and the file: %v", name, o, err)
	}
	if err == nil {
		_ = os.Remove(dest)
	}
	if after := Tree(t, filepath.Dir(dest)); !maps.Equal(before, after) {
		t.Errorf("wal-fetch %s left %v", name, Differences(before, after))
	}
	return o, data
}

func (r *WalRig) Fetches(t testing.TB, name string, want []byte) {
	t.Helper()
	if o, got := r.Fetch(t, name); o.Code != 0 || o.Out+o.Err != "" || !bytes.Equal(got, want) {
		t.Errorf("wal-fetch %s gives %d bytes of %d: %v", name, len(got), len(want), o)
	}
}

// Race lets processes push different contents under one name: exactly one wins, and its bytes are stored.
func (r *WalRig) Race(t *testing.T, round, pushers int, raced func()) {
	t.Helper()
	name := fmt.Sprintf("00000001%08X000000A0", round)
	codes, texts, contents := make([]int, pushers), make([]string, pushers), make([][]byte, pushers)
	dir := testenv.Dir(t)
	var done sync.WaitGroup
	for i := range pushers {
		contents[i] = WalSegment(name, r.Sysid, Mib, byte(i+1))
		path := filepath.Join(dir, fmt.Sprint(i), name)
		Must(t, os.Mkdir(filepath.Dir(path), 0o755))
		WriteFile(t, path, string(contents[i]), 0o600)
		done.Go(func() {
			o := Execute(t, r.Command(r.Pgobj, "wal-push", path), nil)
			CheckPushCode(t, o)
			codes[i], texts[i] = o.Code, o.Err
		})
	}
	done.Wait()
	raced()
	winner := slices.Index(codes, 0)
	slices.Sort(codes)
	if winner < 0 || codes[0] != 0 || codes[1] != ExitConflict || codes[pushers-1] != ExitConflict {
		t.Errorf("round %d: exit codes %v: %s", round, codes, texts)
		return
	}
	if o, got := r.Fetch(t, name); o.Code != 0 || !bytes.Equal(got, contents[winner]) {
		stored := slices.IndexFunc(contents, func(c []byte) bool { return bytes.Equal(got, c) })
		t.Errorf("round %d: pusher %d won, and the archive has that of %d: %v: %s", round, winner, stored, o, texts)
	}
	Must(t, os.RemoveAll(dir))
}

// Killed runs pgobj until it ends well, and kills it by SIGKILL at its first such system call, at the second, and so on; in the
// long form at each of any kind, too.
func (r *WalRig) Killed(t *testing.T, calls []string, before func(), after func(what string, o Outcome), args ...string) {
	t.Helper()
	strace := testenv.Tool(t, "strace")
	if Torture() {
		calls = append(slices.Clone(calls), "all")
	}
	killed := 0
	for _, call := range calls {
		for n := 1; ; n++ {
			if call == "write" && n > 6 || call == "close" && n > 12 {
				break // the data goes out in many equal pieces
			}
			before()
			o := Execute(t, r.Command(strace, append([]string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e",
				fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n), r.Pgobj}, args...)...), nil)
			after(fmt.Sprintf("killed at %s %d", call, n), o)
			if o.Code == 0 {
				break
			}
			killed++
		}
	}
	if t.Logf("killed %d times", killed); killed < 20 {
		t.Errorf("killed only %d times", killed)
	}
}

package receive

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/segment"
)

// receiving is a server with 1 MB segments that waits for wal-receive with every commit, and keeps its segments in a
// directory, too. What wal-receive asks of the storage goes through a proxy.
type receiving struct {
	*site.Site
	proxy   *faultproxy.Proxy
	through []string // settings for wal-receive
	source  string   // the server's own segments, once they are complete
	spool   string
	same    map[string]bool // objects that have been compared
	pieces  int             // most of one segment
}

func newReceiving(t *testing.T) *receiving {
	t.Helper()
	st, server := site.VersityStore(t)
	k := &receiving{proxy: faultproxy.ForTest(t, server.Endpoint), source: testenv.Dir(t), spool: testenv.Dir(t), same: map[string]bool{}}
	k.Site = site.NewSite(t, st, pgtest.Options{WALSegMB: 1, Conf: []string{"wal_sender_timeout = 2s", "archive_command = 'cp %p " + k.source + "/copy && mv " + k.source + "/copy " + k.source + "/%f'"}})
	k.through = append(slices.Clone(st.Settings), "PGOBJ_S3_ENDPOINT="+k.proxy.URL)
	k.Exec(t, `CREATE TABLE w (i int, filler text)`)
	return k
}

// start starts wal-receive.
func (k *receiving) start(t *testing.T) *site.Receiver {
	t.Helper()
	s := *k.Site
	s.Settings = k.through
	return s.Receive(t, "--slot=k", "--create-slot", "--synchronous", "--application-name=k", "--spool="+k.spool)
}

// receivedKind names a request of wal-receive by what it does.
func receivedKind(r faultproxy.Request) string {
	switch {
	case strings.Contains(r.Query, "list-type"):
		return "list"
	case strings.Contains(r.Path, ".piece"):
		return r.Method + " piece"
	}
	return r.Method + " segment"
}

// killAt starts wal-receive and kills it at the nth request of a kind: before it gets to the storage, when half of it has, or
// when the storage has done it. It is killed as well when it does not get there; then hit is false.
func (k *receiving) killAt(t *testing.T, w *site.Writer, kind, how string, n int) (hit bool) {
	t.Helper()
	k.proxy.Reset()
	v := site.NewVictim()
	kill := func(faultproxy.Request) { v.Kill() }
	nth := func() faultproxy.When {
		seen := 0
		return func(r faultproxy.Request) bool {
			if receivedKind(r) == kind {
				seen++
			}
			return receivedKind(r) == kind && seen == n
		}
	}
	switch how {
	case "before":
		k.proxy.On(nth(), faultproxy.Hook(kill))
		k.proxy.On(nth(), faultproxy.Reset(0))
	case "half":
		k.proxy.On(nth(), faultproxy.Hook(kill))
		k.proxy.On(nth(), faultproxy.CutUpload(200))
	default:
		k.proxy.On(nth(), faultproxy.DropResponse(kill))
	}
	before := w.Acked.Load()
	r := k.start(t)
	v.Started(r.Cmd.Process)
	testenv.Eventually(t, site.Generous, "it is killed, or has done a lot", func() bool {
		select {
		case <-r.Done:
			return true
		default:
			return w.Acked.Load() > before+150
		}
	})
	if code := r.Stop(t, syscall.SIGKILL); code != -1 {
		t.Fatalf("wal-receive ended by itself, with %d", code)
	}
	return site.WasHit(k.proxy)
}

// intact holds all that is stored against what the server has, and the end of it against what the server was told.
func (k *receiving) intact(t *testing.T) {
	t.Helper()
	k.Eventually(t, `SELECT count(*) FROM pg_replication_slots WHERE NOT active`, "1") // it has heard all
	told, err := segment.ParseLSN(k.SQL(t, `SELECT restart_lsn FROM pg_replication_slots`))
	site.Must(t, err)
	full, pieces := site.SegmentsOf(t, k.Directory, 1)
	for name, file := range full {
		k.compare(t, name, file, 0)
	}
	reach := int64(0)
	last := segment.At(1, told, site.Mib)
	most := map[string]int{}
	slices.Sort(pieces) // by offset, too
	for _, p := range pieces {
		from, err1 := strconv.ParseInt(p[25:33], 16, 64)
		to, err2 := strconv.ParseInt(p[34:42], 16, 64)
		site.Must(t, errors.Join(err1, err2))
		k.compare(t, p[:24], filepath.Join(k.dir(t), p+".zst"), from)
		if p[:24] == last.Name(site.Mib) && from <= reach {
			reach = max(reach, to)
		}
		most[p[:24]]++
		k.pieces = max(k.pieces, most[p[:24]])
	}
	for s := last; s.Name(site.Mib) > site.FirstOf(full); {
		s.No--
		if full[s.Name(site.Mib)] == "" {
			t.Errorf("the server was told that all before %s is stored; %s is not", told, s.Name(site.Mib))
		}
	}
	if need := int64(told - last.Start(site.Mib)); full[last.Name(site.Mib)] == "" && reach < need {
		t.Errorf("the server was told that all before %s is stored, which is %d bytes of %s; %d are: %v", told, need, last.Name(site.Mib), reach, pieces)
	}
	if left, err := os.ReadDir(k.spool); err != nil || len(left) > 0 {
		t.Errorf("left on this host: %v, %v", left, err)
	}
}

func (k *receiving) dir(t *testing.T) string {
	found, err := filepath.Glob(filepath.Join(k.Directory, "main/wal/*/00000001"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0]
}

// compare holds an object, from an offset of its segment on, against the server's segment. Objects never change.
func (k *receiving) compare(t *testing.T, name, file string, from int64) {
	t.Helper()
	if k.same[file] {
		return
	}
	body, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return // its deletion was under way
	}
	site.Must(t, err)
	d, err := zstd.NewReader(nil)
	site.Must(t, err)
	defer d.Close()
	got, err := d.DecodeAll(body, nil)
	site.Must(t, err)
	var want []byte
	for _, dir := range []string{k.source, filepath.Join(k.Data, "pg_wal"), k.source} {
		if want, err = os.ReadFile(filepath.Join(dir, name)); err == nil {
			break
		}
	}
	site.Must(t, err)
	whole := !strings.Contains(file, ".piece")
	if whole && len(got) != site.Mib || !bytes.Equal(got, want[from:from+int64(len(got))]) {
		t.Errorf("%s is not what the server has", filepath.Base(file))
	}
	k.same[file] = true
}

// However often, at whatever moment and request wal-receive is killed: what is stored is the server's, nothing that the server
// was told is missing, nothing is left on this host, and the next one goes on.
func TestReceiverKilled(t *testing.T) {
	t.Parallel()
	kills := 16
	if site.Torture() {
		kills = 300
	}
	k := newReceiving(t)
	r := k.start(t)
	k.Streaming(t, "async")
	k.Must(t, "backup-push", "--wal-timeout=10m")
	k.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'k'`)
	k.Exec(t, `SELECT pg_reload_conf()`)
	// About 40 rows fill a segment.
	w := k.WriteRows(t, "w", `(SELECT string_agg(md5(i::text || $1), '') FROM generate_series(1, 800) i)`)
	points := []string{"PUT piece before", "PUT piece half", "PUT piece after", "PUT segment before", "PUT segment half", "PUT segment after",
		"GET piece before", "GET piece after", "DELETE piece before", "DELETE piece after", "list before", "list after"}
	rand.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	hits := map[string]int{}
	for i := range kills / 2 {
		// At any moment of one that serves.
		before := w.Acked.Load()
		w.Reaches(t, before+3)
		<-time.After(time.Duration(rand.IntN(300)) * time.Millisecond)
		if code := r.Stop(t, syscall.SIGKILL); code != -1 {
			t.Fatalf("wal-receive ended by itself, with %d", code)
		}
		k.intact(t)
		// At a request.
		point := points[i%len(points)]
		request, how := point[:strings.LastIndex(point, " ")], point[strings.LastIndex(point, " ")+1:]
		n := 1 + rand.IntN(3)
		if request == "list" || request == "GET piece" {
			n = 1 // there need not be more
		}
		if k.killAt(t, w, request, how, n) {
			hits[point]++
		}
		k.intact(t)
		k.proxy.Reset()
		if r = k.start(t); t.Failed() {
			t.Fatalf("after a kill at %s %d", point, n)
		}
	}
	w.Reaches(t, w.Acked.Load()+3)
	w.Stop()
	<-w.Done
	acked, hit := w.Acked.Load(), 0
	k.Exec(t, `SET synchronous_commit = off; SELECT pg_switch_wal()`)
	k.Stop(t, "fast") // waits until all is stored
	if code := r.Stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("wal-receive ended with %d", code)
	}
	full, pieces := site.SegmentsOf(t, k.Directory, 1)
	for name, file := range full {
		delete(k.same, file)
		k.compare(t, name, file, 0)
	}
	for _, p := range pieces {
		if p[:24] < site.LastOf(full) {
			t.Errorf("%s is left, and its segment is complete", p)
		}
	}
	k.Must(t, "wal-verify")
	c := k.Site.Spawn(t, k.Fetch(t), "-c", "synchronous_standby_names=", "-c", "archive_mode=off")
	n := site.Number(t, c.SQL(t, `SELECT count(DISTINCT i) FROM w`))
	if n < acked {
		t.Errorf("%d rows were acknowledged, %d are there", acked, n)
	}
	for _, n := range hits {
		hit += n
	}
	t.Logf("%d kills, %d of them at requests (%v); %d rows, %d segments, %d objects compared, at most %d pieces of one segment", kills, hit, hits, acked, len(full), len(k.same), k.pieces)
	if hit < kills/4 || len(full) < 3 {
		t.Errorf("only %d of %d kills were at a request, and there are %d segments", hit, kills, len(full))
	}
	if site.Torture() && len(hits) < len(points) {
		t.Errorf("of %v only %v", points, hits)
	}
}

// spooled is how much a process has in files of a directory that have no name any more.
func spooled(pid int, dir string) (sum int64) {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir) {
			if info, err := os.Stat(fd); err == nil {
				sum += info.Size()
			}
		}
	}
	return sum
}

// While nothing can be stored wal-receive keeps seven segments at most, lets the server wait, and goes on afterwards.
func TestReceiverDiskIsBounded(t *testing.T) {
	t.Parallel()
	k := newReceiving(t)
	r := k.start(t)
	k.Streaming(t, "async")
	k.Must(t, "backup-push", "--wal-timeout=10m")
	release, sender := make(chan struct{}), k.SQL(t, `SELECT pid FROM pg_stat_replication`)
	k.proxy.On(faultproxy.Method("PUT"), faultproxy.Hold(release))
	for range 20 {
		k.Exec(t, `INSERT INTO w SELECT 1, string_agg(md5(random()::text), '') FROM generate_series(1, 33000)`)
	}
	most, since := int64(0), 0
	testenv.Eventually(t, site.Generous, "it takes no more", func() bool {
		if now := spooled(r.Cmd.Process.Pid, k.spool); now > most {
			most, since = now, 0
		}
		since++
		return most >= 5*site.Mib && since > 100
	})
	if most > 7*site.Mib {
		t.Errorf("%d bytes are spooled", most)
	}
	if behind := site.Number(t, k.SQL(t, `SELECT (pg_current_wal_lsn() - sent_lsn)::bigint >> 20 FROM pg_stat_replication`)); behind < 8 {
		t.Errorf("the server is only %d MB ahead", behind)
	}
	close(release)
	k.Eventually(t, `SELECT pid, flush_lsn = pg_current_wal_lsn() FROM pg_stat_replication`, sender+"|t") // it was patient
	if code := r.Stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("wal-receive ended with %d", code)
	}
	site.Must(t, k.Crash())
	c := k.Site.Spawn(t, k.Fetch(t), site.NoArchiving...)
	if n := c.SQL(t, `SELECT count(*) FROM w`); n != "20" {
		t.Errorf("%s of 20 rows", n)
	}
	t.Logf("%d bytes were spooled at most", most)
}

// What was received of a segment rots in the storage: the next receiver says so, has the server send it again, and what was
// acknowledged is there.
func TestReceiveOverDamagedPieces(t *testing.T) {
	t.Parallel()
	for what, which := range map[string]func(pieces []string) []string{
		"the first": func(p []string) []string { return p[:1] }, "the last": func(p []string) []string { return p[len(p)-1:] },
		"all": func(p []string) []string { return p },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			st := site.DirectoryStore(t)
			s := onlyReceived(t, st, pgtest.Options{})
			s.Exec(t, `CREATE TABLE w (i int, filler text)`)
			args := []string{"--slot=d", "--create-slot", "--synchronous", "--application-name=d"}
			r := s.Receive(t, args...)
			s.Streaming(t, "async")
			s.Must(t, "backup-push", "--wal-timeout=10m")
			s.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'd'`)
			s.Exec(t, `SELECT pg_reload_conf()`)
			s.Streaming(t, "sync")
			for i := range 40 {
				s.Exec(t, fmt.Sprintf(`INSERT INTO w SELECT %d, string_agg(md5(random()::text), '') FROM generate_series(1, %d)`, i, 1+4000/(i+1)))
			}
			r.Stop(t, syscall.SIGKILL)
			_, pieces := site.SegmentsOf(t, st.Directory, 1)
			slices.Sort(pieces)
			if len(pieces) < 2 {
				t.Fatalf("there are only the pieces %v", pieces)
			}
			dir, _ := filepath.Glob(filepath.Join(st.Directory, "main/wal/*/00000001"))
			for _, p := range which(pieces) {
				file := filepath.Join(dir[0], p+".zst")
				data := site.ReadFile(t, file)
				site.PutFile(t, file, site.Flip(data, len(data)/2))
			}
			r = s.Receive(t, args...)
			s.Streaming(t, "sync")
			s.Exec(t, `INSERT INTO w VALUES (40, '')`)
			if !strings.Contains(r.Said(), "damaged") {
				t.Error("it says nothing of the damage")
			}
			site.Must(t, s.Crash())
			r.Stop(t, syscall.SIGTERM)
			s.Must(t, "wal-verify")
			c := s.Spawn(t, s.Fetch(t), "-c", "synchronous_standby_names=", "-c", "archive_mode=off")
			if n := c.SQL(t, `SELECT count(*) FROM w`); n != "41" {
				t.Errorf("%s of 41 rows", n)
			}
		})
	}
}

package history

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// generous bounds what is waited for. Nothing is concluded from it but "it hangs".
const generous = 5 * time.Minute

var majors = []int{10, 13, 15, 17, 18}

// history is a cluster with its servers and its repository, and what is known of its past.
type history struct {
	*testing.T
	*rand.Rand // of this step
	seed       uint64
	step       int
	steps      int
	sum        *summary
	without    []string

	major   int
	dir     string // all of our files
	spaces  string // where tablespaces are made
	pgobj   string
	env     []string // pgobj's settings
	serial  int      // for names
	primary *server
	standby *server // nil: none
	servers int     // how many there ever were

	timeline  int
	ancestors map[int][]fork // of a timeline, from its .history
	archived  map[int]lsn    // of a timeline: the archive has all before
	marks     []*mark
	quiet     []*stretch
	barriers  []barrier
	backups   map[string]*backup
	newSpace  bool     // a tablespace was made outside of the data directory since the last backup
	places    []string // of all tablespaces that were ever made
	crashed   bool     // since the archive was last without a gap
	restored  int
	notes     []string

	directories int // that were copied, made or removed: directoryChanges
}

// server is a data directory, and the server on it. Its tablespaces lie in history.spaces, or below spaces when it was
// made from a backup of another.
type server struct {
	*pgtest.Cluster
	root   string
	spaces string
}

// fork: a timeline left another one at a place.
type fork struct {
	timeline int
	at       lsn
}

// barrier is a range that recovery may not get across, for a reason that is PostgreSQL's: a restore from before it to
// after it may be refused.
type barrier struct {
	timeline int
	from, to lsn
	why      string
}

// backup is one that is listed.
type backup struct {
	ID       string `json:"backup"`
	Timeline int    `json:"timeline"`
	StopLSN  string `json:"stop_lsn"`
	From     string `json:"from"`
	stop     lsn
	contents *contents // at its end, if that is known
	dir      string    // that it was taken of
}

type lsn uint64

func (l lsn) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) }

func (h *history) lsn(text string) lsn {
	high, low, _ := strings.Cut(text, "/")
	a, err1 := strconv.ParseUint(high, 16, 32)
	b, err2 := strconv.ParseUint(low, 16, 32)
	if err := errors.Join(err1, err2); err != nil {
		h.Fatalf("not an LSN: %q: %v", text, err)
	}
	return lsn(a<<32 | b)
}

func newHistory(t *testing.T, seed uint64, sum *summary) *history {
	t.Helper()
	h := &history{T: t, seed: seed, sum: sum, pgobj: testenv.Pgobj(t), ancestors: map[int][]fork{}, archived: map[int]lsn{},
		backups: map[string]*backup{}, without: strings.Split(os.Getenv("PGOBJ_HISTORY_WITHOUT"), ",")}
	dir, err := testenv.MakeDir()
	h.must(err)
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("PGOBJ_HISTORY_KEEP") != "" {
			t.Logf("the files of this history: %s", dir)
			return
		}
		h.remove(dir)
	})
	h.dir = dir
	h.spaces = h.mkdir("spaces")
	h.env = []string{"PGOBJ_STORAGE=file://" + h.mkdir("repository")}
	return h
}

// begin makes the cluster.
func (h *history) begin() {
	h.next()
	h.major = majors[h.IntN(len(majors))]
	h.steps = 22 + h.IntN(16)
	o := pgtest.Options{Major: h.major, Checksums: h.IntN(2) == 0, Template: true, Conf: []string{
		"archive_mode = on", "archive_command = '" + h.pgobj + " wal-push %p'", "wal_level = replica", "hot_standby = on", "max_wal_senders = 6",
		"fsync = off", "shared_buffers = '4MB'", "wal_log_hints = on", "autovacuum_naptime = '2s'", "max_prepared_transactions = 5",
		"checkpoint_timeout = '30s'", "allow_in_place_tablespaces = on", "max_connections = 30",
		"max_standby_streaming_delay = -1", "max_standby_archive_delay = -1"}}
	if h.major >= 11 {
		o.WALSegMB = 1
		o.Conf = append(o.Conf, "min_wal_size = '2MB'", "max_wal_size = '16MB'")
	}
	if h.major >= 13 {
		o.Conf = append(o.Conf, "wal_keep_size = '64MB'")
	} else {
		o.Conf = append(o.Conf, "wal_keep_segments = 64")
	}
	if h.major >= 17 && h.IntN(2) == 0 {
		o.Conf = append(o.Conf, "summarize_wal = on")
	}
	s := h.place()
	o.DataDir, o.Env = filepath.Join(s.root, "data"), h.env
	ctx, cancel := context.WithTimeout(h.Context(), generous)
	defer cancel()
	c, err := pgtest.Create(ctx, o)
	h.must(err)
	s.Cluster = c
	h.owned(s)
	s.Start(h)
	h.primary, h.timeline = s, 1
	h.note("PostgreSQL %d, checksums %v, %d steps", h.major, o.Checksums, h.steps)
	h.sql("postgres", `CREATE TABLE public.history_tick (n int)`)
	for range 3 {
		h.statement()
	}
	h.push(h.primary)
}

// place makes room for one more server.
func (h *history) place() *server {
	h.servers++
	root := h.mkdir(fmt.Sprintf("n%d", h.servers))
	return &server{root: root, spaces: filepath.Join(root, "spaces")}
}

// owned stops a server with the history, and shows its log when that failed.
func (h *history) owned(s *server) {
	h.Cleanup(func() {
		if h.Failed() {
			h.Logf("log of the server in %s:\n%s", s.root, lastLines(s.Log(), 40))
		}
		h.must(s.Close())
	})
}

// attach makes a server of what was restored to its place.
func (h *history) attach(s *server) {
	c, err := pgtest.Attach(filepath.Join(s.root, "data"), h.major)
	h.must(err)
	c.AddEnv(h.env...)
	s.Cluster = c
	h.owned(s)
}

func (h *history) mkdir(name string) string {
	dir := name
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(h.dir, name)
	}
	h.must(os.MkdirAll(dir, 0o700))
	h.must(testenv.ChownPostgres(dir))
	return dir
}

// remove does it again while a process that a server has left behind is still writing there.
func (h *history) remove(dir string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), generous) // the test's is over when it cleans up
	defer cancel()
	h.must(testenv.Until(ctx, dir+" is removed", func() bool { return os.RemoveAll(dir) == nil }))
}

func (h *history) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// note writes the history down. It is shown when it fails, and at once when it was asked for by its seed.
func (h *history) note(format string, args ...any) {
	h.Helper()
	line := fmt.Sprintf("%s step %d: %s", time.Now().UTC().Format("15:04:05.000"), h.step, fmt.Sprintf(format, args...))
	if _, asked := os.LookupEnv("PGOBJ_HISTORY_SEED"); asked {
		h.Log(line)
		return
	}
	h.notes = append(h.notes, line)
}

// outcome is what a run of pgobj gave.
type outcome struct {
	args     []string
	code     int
	out, err string
}

func (o outcome) String() string {
	return fmt.Sprintf("pgobj %s: exit code %d\n%s\n%s", strings.Join(o.args, " "), o.code, lastLines(o.out, 40), lastLines(o.err, 40))
}

// running is a pgobj at work.
type running struct {
	*exec.Cmd
	o        *outcome
	out, err bytes.Buffer
	done     chan struct{}
}

// start runs pgobj against a server, or none, as the user postgres.
func (h *history) start(s *server, args ...string) *running {
	h.Helper()
	p := &running{Cmd: exec.Command(h.pgobj, args...), o: &outcome{args: args}, done: make(chan struct{})}
	p.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}, h.env...)
	if s != nil {
		p.Env = append(p.Env, s.Env()...)
	}
	p.Stdout, p.Stderr = &p.out, &p.err
	testenv.AsPostgres(p.Cmd)
	h.must(p.Start())
	go func() {
		_ = p.Wait() // how it ended is in ProcessState
		p.o.code, p.o.out, p.o.err = p.ProcessState.ExitCode(), p.out.String(), p.err.String()
		close(p.done)
	}()
	return p
}

func (h *history) wait(p *running) outcome {
	h.Helper()
	select {
	case <-p.done:
	case <-time.After(generous):
		_ = p.Process.Kill() // the test fails anyway
		<-p.done
		h.Fatalf("it hangs: %v", *p.o)
	}
	return *p.o
}

// run is pgobj with an exit code that is one of those.
func (h *history) run(s *server, codes []int, args ...string) outcome {
	h.Helper()
	o := h.wait(h.start(s, args...))
	if !slices.Contains(codes, o.code) {
		h.Fatalf("exit code %d, should be of %v: %v", o.code, codes, o)
	}
	return o
}

var ok = []int{0}

// query asks the primary.
func (h *history) query(db, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(h.Context(), generous)
	defer cancel()
	return h.primary.Query(ctx, db, sql)
}

func (h *history) sql(db, sql string) string {
	h.Helper()
	return h.primary.SQLIn(h, db, sql)
}

func (h *history) names(db, sql string) []string {
	h.Helper()
	return strings.Fields(h.sql(db, sql))
}

// name makes a new one.
func (h *history) name(prefix string) string {
	h.serial++
	return prefix + strconv.Itoa(h.serial)
}

func pick[T any](h *history, of []T) T { return of[h.IntN(len(of))] }

// position is how far the primary has written.
func (h *history) position() lsn {
	h.Helper()
	return h.lsn(h.sql("postgres", `SELECT pg_current_wal_insert_lsn()`))
}

// settle returns when the archive has all WAL so far.
func (h *history) settle() {
	h.Helper()
	at := h.position()
	last := h.primary.SwitchWAL(h)
	h.primary.Eventually(h, fmt.Sprintf(`SELECT left(last_archived_wal, 24) >= '%s' FROM pg_stat_archiver`, last), "t")
	if h.crashed && len(h.barriers) == 0 {
		h.closeGap()
	}
	h.archived[h.timeline] = at
}

// closeGap waits until PostgreSQL has archived a segment that it ended in the moment of a crash: it notices that it has
// not when a checkpoint or two are past it (XLogArchiveCheckDone).
func (h *history) closeGap() {
	h.Helper()
	testenv.Eventually(h, generous, "the archive has no gap after a crash", func() bool {
		if h.run(nil, []int{0, 11}, "wal-list").code == 0 {
			return true
		}
		h.note("the archive has a gap")
		h.sql("postgres", `INSERT INTO public.history_tick VALUES (0); SELECT pg_switch_wal()`)
		h.sql("postgres", `CHECKPOINT`)
		return false
	})
	h.crashed = false
}

// list brings what is known of the backups up to date.
func (h *history) list() []string {
	h.Helper()
	var all []*backup
	o := h.run(nil, []int{0, 6}, "backup-list", "--json")
	if o.code == 0 {
		if err := json.Unmarshal([]byte(o.out), &all); err != nil {
			h.Fatalf("%v: %v", err, o)
		}
	}
	now := map[string]*backup{}
	var ids []string
	for _, b := range all {
		b.stop = h.lsn(b.StopLSN)
		if known := h.backups[b.ID]; known != nil {
			b = known
		}
		now[b.ID] = b
		ids = append(ids, b.ID)
	}
	h.backups = now
	return ids
}

// newTimeline takes note of the primary's timeline and its ancestors.
func (h *history) newTimeline() {
	h.Helper()
	name := h.sql("postgres", `SELECT pg_walfile_name(pg_current_wal_lsn())`)
	tli, err := strconv.ParseInt(name[:8], 16, 32)
	h.must(err)
	h.timeline = int(tli)
	if h.timeline == 1 || h.ancestors[h.timeline] != nil {
		return
	}
	text, err := os.ReadFile(filepath.Join(h.primary.Data, "pg_wal", name[:8]+".history"))
	h.must(err)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0][0] != '#' {
			n, err := strconv.Atoi(f[0])
			h.must(err)
			h.ancestors[h.timeline] = append(h.ancestors[h.timeline], fork{n, h.lsn(f[1])})
		}
	}
	h.note("timeline %d, after %v", h.timeline, h.ancestors[h.timeline])
}

// on tells whether a place on a timeline lies on the way along another.
func (h *history) on(timeline int, at lsn, along int) bool {
	return timeline == along || slices.ContainsFunc(h.ancestors[along], func(f fork) bool { return f.timeline == timeline && at <= f.at })
}

// lastLines leaves out what a server said to those who came too early.
func lastLines(text string, n int) string {
	lines := slices.DeleteFunc(strings.Split(strings.TrimRight(text, "\n"), "\n"), func(l string) bool {
		return strings.Contains(l, "FATAL:  the database system is") || strings.Contains(l, "DETAIL:  Consistent recovery state has not been yet reached")
	})
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

package history

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// event is a kind of step.
type event struct {
	kind   string
	weight int
	do     func(h *history)
	when   func(h *history) bool // nil: always
}

func alone(h *history) bool    { return h.standby == nil }
func followed(h *history) bool { return h.standby != nil }

var events = []event{
	{"statements", 38, func(h *history) {
		for range 1 + h.IntN(4) {
			h.statement()
		}
	}, nil},
	{"mark", 10, func(h *history) { h.mark() }, nil},
	{"backup", 5, func(h *history) { h.push(h.primary) }, nil},
	{"busy", 16, func(h *history) { h.busy(h.primary) }, nil},
	{"standby backup", 14, func(h *history) { h.busy(h.standby) }, followed},
	{"killed backup", 3, (*history).killedBackup, nil},
	{"crash in backup", 2, (*history).crashInBackup, nil},
	{"killed wal-push", 3, (*history).killedWALPush, nil},
	{"crash", 4, func(h *history) {
		h.disturb()
		h.crash()
		h.primary.Start(h)
	}, nil},
	{"restart", 2, func(h *history) { h.restart() }, nil},
	{"parameters", 3, (*history).parameters, alone},
	{"minimal", 2, (*history).minimal, alone},
	{"offline", 5, (*history).offline, alone},
	{"standby", 8, (*history).follow, alone},
	{"failover", 8, (*history).failover, followed},
	{"no more standby", 1, (*history).unfollow, followed},
	{"broken", 4, (*history).broken, alone},
	{"gone", 4, (*history).gone, nil},
	{"retention", 6, (*history).retention, nil},
	{"rebuild", 2, (*history).rebuild, nil},
	{"checks", 2, (*history).checks, nil},
	{"round", 3, (*history).roundAndOn, alone},
}

func (h *history) event() {
	h.Helper()
	total := 0
	var able []event
	for _, e := range events {
		if (e.when == nil || e.when(h)) && !slices.Contains(h.without, e.kind) {
			able = append(able, e)
			total += e.weight
		}
	}
	n := h.IntN(total)
	for _, e := range able {
		if n -= e.weight; n < 0 {
			h.note("== %s", e.kind)
			e.do(h)
			h.sum.count("= "+e.kind, true)
			return
		}
	}
}

// crash ends the primary without a shutdown.
func (h *history) crash() {
	h.Helper()
	if h.IntN(2) == 0 {
		h.primary.Stop(h, "immediate")
	} else {
		h.primary.Kill(h)
	}
	h.crashed = true
}

func (h *history) restart() {
	h.Helper()
	h.disturb()
	h.primary.Stop(h, "fast")
	h.primary.Start(h)
}

// push takes a backup that nothing disturbs.
func (h *history) push(s *server, args ...string) {
	h.Helper()
	h.taken(s, h.wait(h.start(s, append([]string{"backup-push", "--wal-timeout=2m"}, args...)...)), h.directories)
}

// busy takes a backup while things happen: it is stopped again and again, so that they happen between two moments of it.
func (h *history) busy(s *server) {
	h.Helper()
	args := []string{"backup-push", "--wal-timeout=2m", "--jobs=1"}
	if s == h.standby {
		args = append(args, "--primary-dsn", h.primary.DSN("postgres"))
	}
	if h.IntN(6) == 0 {
		args = append(args, "--full")
	}
	before := h.directories
	p := h.start(s, args...)
	for range 1 + h.IntN(4) {
		time.Sleep(time.Duration(h.IntN(150)) * time.Millisecond) // any moment will do
		h.whileStopped(p, func() {
			for range 1 + h.IntN(2) {
				h.statement()
			}
			if h.IntN(3) == 0 {
				h.mark()
			}
		})
	}
	h.taken(s, h.wait(p), before)
}

func (h *history) whileStopped(p *running, do func()) {
	h.Helper()
	select {
	case <-p.done:
	default:
		h.must(p.Process.Signal(syscall.SIGSTOP))
		defer func() { _ = p.Process.Signal(syscall.SIGCONT) }() // one that has ended needs no signal
	}
	do()
}

// taken holds what a run of backup-push has to leave behind: with exit code 0 one more backup, else none. A backup
// during which directories came and went, of which there had been so many when it began, may be refused (9).
func (h *history) taken(s *server, o outcome, directories int) {
	h.Helper()
	before := len(h.backups)
	ids := h.list()
	switch {
	case o.code == 0 && len(ids) == before+1:
		b := h.backups[ids[before]]
		b.contents, b.dir = h.at(b.Timeline, b.stop), s.Data
		if s == h.primary && h.directories == directories {
			h.newSpace = false
		}
		h.note("backup %s of the %s, timeline %d, to %s; contents there known: %v", b.ID, b.From, b.Timeline, b.StopLSN, b.contents != nil)
		h.sum.add(&h.sum.backups)
	case o.code == 9 && h.directories > directories && len(ids) == before:
		h.note("refused: %s", lastLines(o.err, 3))
		h.sum.count("backup refused for a copied directory", true)
	default:
		h.Fatalf("there were %d backups, and then %d: %v", before, len(ids), o)
	}
}

// killedBackup: what a killed run leaves behind is in nobody's way.
func (h *history) killedBackup() {
	h.Helper()
	before := len(h.list())
	s := h.primary
	if h.standby != nil && h.IntN(2) == 0 {
		s = h.standby
	}
	p := h.start(s, "backup-push", "--wal-timeout=2m")
	time.Sleep(time.Duration(h.IntN(400)) * time.Millisecond) // any moment will do
	_ = p.Process.Kill()                                      // it may have ended
	h.ended(s, h.wait(p), before)
}

// ended is taken for a run that may have been too early or too late for what was to disturb it.
func (h *history) ended(s *server, o outcome, before int) {
	h.Helper()
	ids := h.list()
	switch {
	case len(ids) == before+1: // killed between the commit and its end, it has no exit code of its own
		b := h.backups[ids[before]]
		b.contents, b.dir = h.at(b.Timeline, b.stop), s.Data
		h.note("it was too late: backup %s is there", b.ID)
	case o.code == 0 || len(ids) != before:
		h.Fatalf("there were %d backups, and then %d: %v", before, len(ids), o)
	}
}

func (h *history) crashInBackup() {
	h.Helper()
	before := len(h.list())
	p := h.start(h.primary, "backup-push", "--wal-timeout=5s")
	time.Sleep(time.Duration(h.IntN(400)) * time.Millisecond) // any moment will do
	h.crash()
	o := h.wait(p)
	h.primary.Start(h)
	h.ended(h.primary, o, before)
	h.closeQuiet(0)
}

// killedWALPush kills whatever archives for the primary, a few times while it has work.
func (h *history) killedWALPush() {
	h.Helper()
	h.statement()
	for range 3 {
		h.sql("postgres", `SELECT pg_switch_wal()`)
		time.Sleep(time.Duration(h.IntN(60)) * time.Millisecond) // any moment will do
		for _, pid := range h.archivers() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		h.sql("postgres", `INSERT INTO public.history_tick VALUES (0)`)
	}
	h.settle()
}

// archivers are the processes of pgobj whose PGDATA, or directory that they stand in, is the primary's.
func (h *history) archivers() (pids []int) {
	all, err := filepath.Glob("/proc/[0-9]*")
	h.must(err)
	for _, dir := range all {
		exe, err := os.Readlink(dir + "/exe")
		cwd, err2 := os.Readlink(dir + "/cwd")
		if err != nil || err2 != nil || exe != h.pgobj || cwd != h.primary.Data {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parameters raises, or lowers, what a standby and a recovery need as much of.
func (h *history) parameters() {
	h.Helper()
	name := pick(h, []string{"max_connections", "max_worker_processes", "max_prepared_transactions", "max_locks_per_transaction", "max_wal_senders"})
	value := 12 + h.IntN(80)
	if name == "max_wal_senders" { // up to 11 there have to be fewer than connections
		value = 2 + h.IntN(10)
	}
	h.note("%s = %d", name, value)
	h.sql("postgres", fmt.Sprintf("ALTER SYSTEM SET %s = %d", name, value))
	h.restart()
}

// minimal writes some WAL that recovery does not get across.
func (h *history) minimal() {
	h.Helper()
	h.settle()
	h.disturb()
	for _, set := range []string{"wal_level = minimal", "max_wal_senders = 0", "archive_mode = off", "summarize_wal = off"} {
		if h.major >= 17 || !strings.HasPrefix(set, "summarize") {
			h.sql("postgres", "ALTER SYSTEM SET "+set)
		}
	}
	h.restart()
	h.barriers = append(h.barriers, barrier{h.timeline, h.position(), h.position(), "wal_level = minimal"})
	for range h.IntN(3) {
		h.statement()
	}
	for _, name := range []string{"wal_level", "max_wal_senders", "archive_mode", "summarize_wal"} {
		if h.major >= 17 || name != "summarize_wal" {
			h.sql("postgres", "ALTER SYSTEM RESET "+name)
		}
	}
	h.restart()
	h.barriers = append(h.barriers, barrier{h.timeline, h.position(), h.position(), "wal_level = minimal"})
}

// offline takes a backup of the stopped server.
func (h *history) offline() {
	h.Helper()
	m := h.mark()
	h.primary.Stop(h, "fast")
	before := len(h.list())
	o := h.run(nil, ok, "backup-push", "--offline", h.primary.Data)
	ids := h.list()
	if len(ids) != before+1 {
		h.Fatalf("there were %d backups, and then %d: %v", before, len(ids), o)
	}
	b := h.backups[ids[before]]
	b.contents, b.dir = m.contents, h.primary.Data
	h.newSpace = false
	h.note("offline backup %s, timeline %d, to %s", b.ID, b.Timeline, b.StopLSN)
	h.sum.add(&h.sum.backups)
	h.primary.Start(h)
	h.closeQuiet(0)
}

// follow makes a standby of a new backup.
func (h *history) follow() {
	h.Helper()
	h.push(h.primary)
	s := h.place()
	h.run(nil, ok, append([]string{"backup-fetch", filepath.Join(s.root, "data")}, h.standbyFlags(s)...)...)
	h.seeded(s)
}

func (h *history) standbyFlags(s *server) []string {
	return []string{"--standby", "--primary-conninfo", fmt.Sprintf("host=%s port=%d user=postgres", h.primary.SocketDir, h.primary.Port),
		"--tablespace-map-all", s.spaces, "--keep-archiving"}
}

func (h *history) unfollow() {
	h.Helper()
	h.standby.Stop(h, pick(h, []string{"fast", "immediate"}))
	h.standby = nil
}

// caughtUp waits until the standby has replayed all.
func (h *history) caughtUp() {
	h.Helper()
	h.standby.Eventually(h, fmt.Sprintf(`SELECT pg_last_wal_replay_lsn() >= '%s'`, h.position()), "t")
}

// seeded starts a new standby, and holds that it has all that its primary has.
func (h *history) seeded(s *server) {
	h.Helper()
	h.attach(s)
	s.Start(h)
	h.standby = s
	m := h.mark()
	h.caughtUp()
	h.compare("the new standby", s.Cluster, m.contents, false)
}

// failover makes the standby the primary. The old primary is lost, or comes back as a standby.
func (h *history) failover() {
	h.Helper()
	clean := h.IntN(2) == 0
	if h.IntN(2) == 0 {
		h.mark()
	}
	switch {
	case clean: // the standby gets all, and so does the archive
		h.settle()
		h.caughtUp()
		h.primary.Stop(h, "fast")
	case h.IntN(3) > 0: // the last transaction may be on the old timeline only, in a segment that is not complete
		h.settle()
		h.disturb()
		h.sql("postgres", "CREATE TABLE "+h.name("t")+" AS SELECT 1 AS id, 2 AS a, 'late' AS b")
		h.crash()
	default: // and so may segments be that nobody archived
		h.statement()
		h.crash()
		h.barriers = append(h.barriers, barrier{h.timeline, h.archived[h.timeline], math.MaxUint64, "the primary was lost with WAL that was not archived"})
	}
	old := h.primary
	h.promote()
	switch h.IntN(3) {
	case 0:
		h.note("the old primary is lost")
	case 1:
		h.reseed(old)
	default:
		h.rewind(old)
	}
}

func (h *history) promote() {
	h.Helper()
	s := h.standby
	cmd := testenv.AsPostgres(h.command(s.Bin("pg_ctl"), "promote", "-D", s.Data))
	if out, err := cmd.CombinedOutput(); err != nil {
		h.Fatalf("promote: %v: %s", err, out)
	}
	s.Eventually(h, `SELECT pg_is_in_recovery()`, "f")
	h.primary, h.standby = s, nil
	h.quiet = append(h.quiet, &stretch{}) // what is here now was not looked at
	h.newTimeline()
	h.mark()
	h.settle()
}

// reseed makes the old primary a standby of the new one: with what fits of its files.
func (h *history) reseed(old *server) {
	h.Helper()
	h.push(h.primary)
	data := old.Data
	if old.Running() {
		old.Stop(h, "fast")
	}
	s := h.place()
	s.root = old.root
	h.note("the old primary is seeded again")
	h.run(nil, ok, append([]string{"backup-fetch", data, "--delta", "--discard-wal"}, h.standbyFlags(s)...)...)
	h.seeded(s)
}

// rewind makes it one with pg_rewind, where that is installed. Two servers on one host cannot have a tablespace in one
// place, so there must be none outside of the data directory.
func (h *history) rewind(old *server) {
	h.Helper()
	outside := h.sql("postgres", `SELECT count(*) FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'`)
	if h.major != 15 || outside != "0" {
		h.note("the old primary is lost")
		return
	}
	h.sql("postgres", `CHECKPOINT`)
	cmd := testenv.AsPostgres(h.command(old.Bin("pg_rewind"), "--target-pgdata="+old.Data, "--source-server="+h.primary.DSN("postgres"), "--write-recovery-conf"))
	out, err := cmd.CombinedOutput()
	h.note("pg_rewind: %v: %s", err, lastLines(string(out), 3))
	h.sum.count("pg_rewind", err == nil)
	if err != nil {
		return // it lacks WAL that was recycled, say: it is lost
	}
	s := &server{root: old.root, spaces: old.spaces}
	h.seeded(s)
}

// broken is the runbook's third disaster: what fits of a crashed cluster is kept, and its last WAL is saved. Where the
// newest backup is of a stopped server, and so needs no recovery, it may ask for a target first.
func (h *history) broken() {
	h.Helper()
	newest := h.reaching()
	h.statement()
	s := h.primary
	if h.newSpace && newest.dir != s.Data { // in another place than the original's its directory would have to be moved away by hand
		newest = h.reaching()
	}
	m := h.mark()
	h.crash()
	h.damage()
	saved := filepath.Join(h.dir, h.name("saved"))
	args := append([]string{"backup-fetch", s.Data, "--delta", "--save-wal", saved, "--keep-archiving"}, h.mapped()...)
	if o := h.wait(h.start(nil, args...)); o.code != 0 {
		if newest.From != "offline" {
			h.Fatalf("the runbook for a broken cluster: %v", o)
		}
		h.note("refused: %s", lastLines(o.err, 3))
		h.run(s, ok, "wal-push", "--all", s.Data)
		h.run(nil, ok, append(args, "--target-timeline", "latest")...)
	}
	names, err := os.ReadDir(saved)
	if err != nil && !os.IsNotExist(err) {
		h.Fatal(err)
	}
	for _, n := range names {
		h.note("saved: %s", n.Name())
		h.run(s, ok, "wal-push", filepath.Join(saved, n.Name()))
	}
	s.Start(h)
	h.reopened(m)
}

// reaching is the newest backup, a new one where recovery does not get from that to here.
func (h *history) reaching() *backup {
	h.Helper()
	for {
		ids := h.list()
		b := h.backups[ids[len(ids)-1]]
		if !h.newSpace && h.on(b.Timeline, b.stop, h.timeline) && h.barred(b, h.timeline, h.position()) == "" {
			return b
		}
		h.push(h.primary)
		if b.ID == h.list()[len(h.backups)-1] {
			h.Fatal("a new backup is not the newest")
		}
	}
}

// mapped puts tablespaces where this server has them.
func (h *history) mapped() []string {
	if !exists(h.primary.spaces) {
		return nil
	}
	return []string{"--tablespace-map-all", h.primary.spaces}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// damage removes a file or two of the stopped primary.
func (h *history) damage() {
	files, err := filepath.Glob(filepath.Join(h.primary.Data, "base", "*", "[0-9]*"))
	h.must(err)
	for range h.IntN(3) {
		h.must(os.RemoveAll(pick(h, files)))
	}
}

// reopened: a restore took the primary's place and must have all that was there.
func (h *history) reopened(m *mark) {
	h.Helper()
	h.newTimeline()
	h.compare("the server after its restore", h.primary.Cluster, m.contents, false)
	h.closeQuiet(0)
	h.mark()
	h.settle()
}

// gone is the second disaster: the machine is gone with all that was not archived.
func (h *history) gone() {
	h.Helper()
	h.reaching()
	m := h.mark()
	h.settle()
	for _, s := range []*server{h.primary, h.standby} {
		if s != nil {
			s.Stop(h, "immediate")
			h.remove(s.Data)
			h.remove(s.spaces)
		}
	}
	h.remove(h.spaces)
	h.mkdir(h.spaces)
	for _, p := range h.places {
		h.mkdir(p)
	}
	s := h.place()
	h.run(nil, ok, "backup-fetch", filepath.Join(s.root, "data"), "--keep-archiving", "--tablespace-map-all", s.spaces, "--target-timeline", "latest")
	h.attach(s)
	s.Start(h)
	h.primary, h.standby = s, nil
	h.reopened(m)
}

// retention deletes by one rule or another.
func (h *history) retention() {
	h.Helper()
	args := pick(h, [][]string{
		{"delete", "retain", strconv.Itoa(1 + h.IntN(3)), "--confirm"},
		{"delete", "oldest", "--confirm"},
		{"delete", "garbage", "--confirm"},
		{"delete", "policy", "--retention", "REDUNDANCY 2", "--confirm", "--hold=0s"},
		{"delete", "policy", "--retention", "keep daily 1, pitr 1 days", "--confirm"},
	})
	args = append(args, "--running-limit=1s")
	before := h.list()
	o := h.run(nil, []int{0, 15}, args...)
	after := h.list()
	for _, id := range after {
		if !slices.Contains(before, id) {
			h.Fatalf("there was no %s before: %v", id, o)
		}
	}
	if len(after) == 0 {
		h.Fatalf("no backup is left: %v", o)
	}
	h.note("pgobj %s: %d, %d of %d backups stay", strings.Join(args, " "), o.code, len(after), len(before))
	h.run(nil, ok, "backup-verify", "all")
}

// rebuild of a catalog that is in order changes nothing.
func (h *history) rebuild() {
	h.Helper()
	before := h.list()
	h.run(nil, ok, "catalog-rebuild", "--confirm")
	if after := h.list(); !slices.Equal(after, before) {
		h.Fatalf("listed after catalog-rebuild: %v, before: %v", after, before)
	}
}

// checks are the commands that look whether all is well: it is.
func (h *history) checks() {
	h.Helper()
	h.run(nil, ok, "backup-verify", "all")
	codes := ok
	if len(h.barriers) > 0 { // WAL that was written without archiving, or lost with its server
		codes = []int{0, 11}
	}
	h.run(nil, codes, "wal-verify")
	h.run(nil, codes, "wal-list")
}

// roundAndOn restores some of what there is, and lets the server go on.
func (h *history) roundAndOn() {
	h.Helper()
	h.round(3)
	h.primary.Start(h)
	h.closeQuiet(0)
}

// open starts a restored server; nil with an error when it ended by itself.
func (h *history) open(dir string) (*pgtest.Cluster, error) {
	c, err := pgtest.Attach(dir, h.major)
	h.must(err)
	ctx, cancel := context.WithTimeout(h.Context(), generous)
	defer cancel()
	return c, c.Launch(ctx)
}

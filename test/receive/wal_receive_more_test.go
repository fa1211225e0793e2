package receive

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// wal-push and two receivers at once store the same, and none is disturbed by the others. What is left of a segment's
// pieces goes when it is complete; what is stored of the last one is shown, checked, and counts for targets.
func TestReceiveBesideWALPush(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE w (i int, filler text)`)
	a := s.Receive(t, "--slot=a", "--create-slot", "--partial-interval=50ms", "--application-name=a")
	b := s.Receive(t, "--partial-interval=70ms", "--application-name=b")
	s.Eventually(t, `SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'`, "2")
	s.Must(t, "backup-push", "--wal-timeout=10m")
	w := s.Write(t, "w")
	w.Reaches(t, 100)
	for range 6 {
		s.Exec(t, `INSERT INTO w SELECT 0, repeat(md5(i::text), 20) FROM generate_series(1, 2000) i`)
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	w.Stop()
	<-w.Done
	s.Exec(t, `INSERT INTO w VALUES (-1, '')`)
	at := s.SQL(t, `SELECT clock_timestamp()`)
	s.Exec(t, `SELECT pg_create_restore_point('received')`)
	s.Exec(t, `INSERT INTO w VALUES (-2, '')`)
	s.Eventually(t, `SELECT bool_and(flush_lsn = pg_current_wal_lsn()) FROM pg_stat_replication`, "t")
	s.Eventually(t, `SELECT count(*) FROM pg_ls_dir('pg_wal/archive_status') f WHERE f LIKE '%.ready'`, "0")
	for _, r := range []*site.Receiver{a, b} {
		if code := r.Stop(t, syscall.SIGTERM); code != 0 || !strings.Contains(r.Said(), "all of it") || strings.Contains(r.Said(), "level=WARN msg=rec") {
			t.Errorf("wal-receive ended with %d", code)
		}
	}
	site.Must(t, s.Crash()) // a stop would archive the rest
	full, pieces := site.SegmentsOf(t, st.Directory, 1)
	if len(full) < 6 || len(pieces) == 0 {
		t.Errorf("%d segments, pieces %v", len(full), pieces)
	}
	for _, p := range pieces {
		if p[:24] <= site.LastOf(full) {
			t.Errorf("%s is left, and its segment is complete", p)
		}
	}
	var list []struct {
		Receiving string
		Received  int64
	}
	site.Must(t, json.Unmarshal([]byte(s.Must(t, "wal-list", "--json").Out), &list))
	if len(list) != 1 || list[0].Received == 0 || list[0].Receiving <= site.LastOf(full) {
		t.Errorf("%+v", list)
	}
	s.Must(t, "wal-verify")
	wins := s.Windows(t)
	if len(wins) != 1 || !strings.Contains(wins[0].Why, list[0].Receiving) || wins[0].To.UTC().Format("2006-01-02 15:04:05") < at[:19] {
		t.Errorf("%+v, and the last transaction but one was at %s", wins, at)
	}
	for _, target := range []string{"--target-time=" + at, "--target-name=received"} { // which only the pieces have
		c := s.Spawn(t, s.Fetch(t, target, "--target-action=promote"), site.NoArchiving...)
		if got := c.SQL(t, `SELECT string_agg(i::text, ',') FROM w WHERE i < 0`); got != "-1" {
			t.Errorf("%s: the rows are %s", target, got)
		}
	}
	// A recovery that is kept from the pieces ends too early, which nothing but restore-check tells.
	dir := s.Fetch(t)
	auto := filepath.Join(dir, "postgresql.auto.conf")
	whole := string(site.ReadFile(t, auto))
	cut := strings.Replace(whole, " --received=latest", "", 1)
	if cut == whole {
		t.Fatalf("restore_command does not ask for what was received:\n%s", whole)
	}
	site.PutFile(t, auto, []byte(cut))
	short := s.Spawn(t, dir, site.NoArchiving...)
	short.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	s.RestoreCheck(t, site.ExitNotReached, "stored by wal-receive", dir)
	dir = s.Fetch(t)
	all := s.Spawn(t, dir, site.NoArchiving...)
	all.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	s.RestoreCheck(t, 0, "end of the WAL", dir)
	// A damaged piece is found, and never replayed.
	last, _ := filepath.Glob(filepath.Join(st.Directory, "main/wal/*/00000001/*00000000-*.piece.zst"))
	data := site.ReadFile(t, last[len(last)-1])
	site.PutFile(t, last[len(last)-1], site.Flip(data, len(data)/2))
	piece := strings.TrimSuffix(filepath.Base(last[len(last)-1]), ".zst")
	if o := s.Run(t, "wal-verify", "--json"); o.Code != 8 || !strings.Contains(o.Out, `"name": "`+piece+`"`) || !strings.Contains(o.Out, `"segment": "`+piece[:24]+`"`) {
		t.Errorf("it does not name %s, and the backup that it affects: %v", piece, o)
	}
	// One of a segment that has been archived since is of no use, and so no harm.
	left := strings.Replace(last[len(last)-1], piece[:24], site.LastOf(full), 1)
	site.PutFile(t, left, site.Flip(data, len(data)/2))
	site.PutFile(t, last[len(last)-1], data)
	s.Must(t, "wal-verify")
	site.Must(t, os.Remove(left))
	site.PutFile(t, last[len(last)-1], site.Flip(data, len(data)/2))
	broken, err := pgtest.Attach(s.Fetch(t), s.Major, site.NoArchiving...)
	site.Must(t, err)
	t.Cleanup(func() { site.Must(t, broken.Close()) })
	if err := broken.Launch(t.Context()); err == nil {
		t.Error("recovery passed over a damaged piece")
	}
}

// A receiver follows its server to a new timeline, whether that happens while it streams, or it is told to go to another
// server; and restores go on along it.
func TestReceiveFollowsTimelines(t *testing.T) {
	t.Parallel()
	for what, fromStandby := range map[string]bool{"while it streams": true, "after a failover": false} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			st := site.DirectoryStore(t)
			s := onlyReceived(t, st, pgtest.Options{WALSegMB: 1, Conf: []string{"wal_retrieve_retry_interval = '100ms'"}})
			s.Exec(t, `CREATE TABLE w (i int)`)
			r := s.Receive(t, "--partial-interval=50ms", "--slot=pgobj", "--create-slot") // which the follower does not have
			s.Streaming(t, "async")
			s.Must(t, "backup-push", "--wal-timeout=10m")
			dir := s.Fetch(t, "--standby", "--primary-conninfo=host="+s.SocketDir+" port="+fmt.Sprint(s.Port)+" user=postgres")
			follower := s.Spawn(t, dir)
			dsn := fmt.Sprintf("host=%s,%s port=%d,%d user=postgres", s.SocketDir, follower.SocketDir, s.Port, follower.Port)
			if fromStandby {
				dsn = fmt.Sprintf("host=%s port=%d user=postgres", follower.SocketDir, follower.Port)
			}
			r.Stop(t, syscall.SIGTERM)
			r = s.Receive(t, "--partial-interval=50ms", "--slot=pgobj", "--create-slot", "--dsn="+dsn)
			s.Exec(t, `INSERT INTO w SELECT generate_series(1, 20000)`)
			follower.Eventually(t, `SELECT count(*) FROM w`, "20000")
			source := s.Cluster
			if fromStandby {
				source = follower
			}
			source.Eventually(t, `SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pgobj' AND flush_lsn = sent_lsn AND state = 'streaming'`, "1")
			site.Must(t, s.Crash())
			follower.Exec(t, `SELECT pg_promote()`)
			follower.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
			follower.Exec(t, `INSERT INTO w SELECT generate_series(20001, 40000)`)
			follower.Eventually(t, `SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pgobj' AND flush_lsn = pg_current_wal_lsn()`, "1")
			if code := r.Stop(t, syscall.SIGTERM); code != 0 {
				t.Errorf("wal-receive ended with %d", code)
			}
			site.Must(t, follower.Crash())
			if fromStandby && !strings.Contains(r.Said(), "the timeline has ended") {
				t.Error("the stream did not end with its timeline")
			}
			s.Must(t, "wal-list")
			c := s.Spawn(t, s.Fetch(t), site.NoArchiving...)
			if n := c.SQL(t, `SELECT count(*) FROM w`); n != "40000" {
				t.Errorf("%s of 40000 rows", n)
			}
			// The end of the timeline that was left.
			c = s.Spawn(t, s.Fetch(t, "--target-timeline=1"), site.NoArchiving...)
			if n := c.SQL(t, `SELECT count(*) FROM w`); n != "20000" {
				t.Errorf("on timeline 1: %s of 20000 rows", n)
			}
			s.Must(t, "delete", "everything", "main", "--confirm")
			if left, _ := filepath.Glob(filepath.Join(st.Directory, "main/wal/*/*/*")); len(left) > 0 {
				t.Errorf("not deleted: %v", left)
			}
		})
	}
}

// A slot that is created again at the server that has taken the other's place keeps WAL from then on only: what that has removed
// before is a gap, and said to be.
func TestReceiveFromReplacementThatLacksWAL(t *testing.T) {
	t.Parallel()
	s := onlyReceived(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"archive_mode = off", "wal_keep_size = 64MB",
		"min_wal_size = '2MB'", "max_wal_size = '2MB'", "wal_retrieve_retry_interval = '100ms'"}})
	first := s.Receive(t)
	s.Streaming(t, "async")
	s.Must(t, "backup-push", "--wal-timeout=10m")
	if code := first.Stop(t, syscall.SIGTERM); code != 0 {
		t.Fatal(code)
	}
	follower := s.Spawn(t, s.Fetch(t, "--standby", "--primary-conninfo=host="+s.SocketDir+" port="+fmt.Sprint(s.Port)+" user=postgres"))
	r := s.Receive(t, "--slot=pgobj", "--create-slot", fmt.Sprintf("--dsn=host=%s,%s port=%d,%d user=postgres", s.SocketDir, follower.SocketDir, s.Port, follower.Port))
	s.Eventually(t, `SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pgobj' AND state = 'streaming'`, "1")
	site.Must(t, r.Cmd.Process.Signal(syscall.SIGSTOP))
	site.Must(t, s.Crash())
	follower.Exec(t, `SELECT pg_promote()`)
	follower.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	follower.Exec(t, `CREATE TABLE x (i int)`)
	follower.Exec(t, `ALTER SYSTEM SET wal_keep_size = 0`)
	follower.Exec(t, `SELECT pg_reload_conf()`)
	for range 8 {
		follower.Exec(t, `INSERT INTO x VALUES (1)`)
		follower.Exec(t, `SELECT pg_switch_wal()`)
	}
	follower.Exec(t, `CHECKPOINT`)
	follower.Exec(t, `CHECKPOINT`)
	site.Must(t, r.Cmd.Process.Signal(syscall.SIGCONT))
	if code := r.Ended(t); code != 11 || !strings.Contains(r.Said(), "--accept-gap") {
		t.Errorf("exit code %d", code)
	}
}

// When the server has removed what the archive lacks, that is said, and a gap is left only on demand.
func TestReceiveAfterWALWasRemoved(t *testing.T) {
	t.Parallel()
	s := onlyReceived(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"archive_mode = off", "wal_keep_size = 64MB"}})
	r := s.Receive(t)
	s.Streaming(t, "async")
	s.Must(t, "backup-push", "--wal-timeout=10m")
	if code := r.Stop(t, syscall.SIGTERM); code != 0 {
		t.Fatal(code)
	}
	s.Exec(t, `ALTER SYSTEM SET wal_keep_size = 0`)
	s.Exec(t, `ALTER SYSTEM SET min_wal_size = '2MB'`)
	s.Exec(t, `ALTER SYSTEM SET max_wal_size = '2MB'`)
	s.Exec(t, `SELECT pg_reload_conf()`)
	for range 8 {
		s.Exec(t, `CREATE TABLE IF NOT EXISTS x (i int)`)
		s.Exec(t, `INSERT INTO x VALUES (1)`)
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	s.Exec(t, `CHECKPOINT`)
	s.Exec(t, `CHECKPOINT`)
	r = s.Receive(t)
	if code := r.Ended(t); code != 11 || !strings.Contains(r.Said(), "--accept-gap") {
		t.Errorf("exit code %d", code)
	}
	r = s.Receive(t, "--accept-gap")
	testenv.Eventually(t, site.Generous, "it goes on", func() bool { return strings.Contains(r.Said(), "receiving again") })
	s.Streaming(t, "async")
	s.Exec(t, `SELECT pg_switch_wal()`)
	s.Eventually(t, `SELECT count(*) FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_lsn()`, "1")
	if code := r.Stop(t, syscall.SIGTERM); code != 0 {
		t.Error(code)
	}
	if o := s.Run(t, "wal-list"); o.Code != 11 || !strings.Contains(o.Out, "gap") {
		t.Error(o)
	}
}

// The server has given up the slot (max_slot_wal_keep_size). When archive_command has filled what was missed, the receiver
// goes on; else it says so.
func TestReceiveAfterSlotWasLost(t *testing.T) {
	t.Parallel()
	majors := []int{15, 18}
	if site.Torture() {
		majors = []int{13, 14, 15, 16, 17, 18}
	}
	for _, major := range majors {
		for _, archived := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d/%v", major, archived), func(t *testing.T) {
				t.Parallel()
				conf := []string{"max_slot_wal_keep_size = '2MB'", "min_wal_size = '2MB'", "max_wal_size = '2MB'"}
				if !archived {
					conf = append(conf, "archive_mode = off")
				}
				s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, WALSegMB: 1, Conf: conf})
				args := []string{"--slot=lost", "--create-slot", "--partial-interval=50ms"}
				r := s.Receive(t, args...)
				s.Streaming(t, "async")
				s.Must(t, "backup-push", "--wal-timeout=10m")
				if code := r.Stop(t, syscall.SIGTERM); code != 0 {
					t.Fatal(code)
				}
				s.Exec(t, `CREATE TABLE x (i int)`)
				for range 10 {
					s.Exec(t, `INSERT INTO x VALUES (1)`)
					s.SwitchWAL(t)
				}
				if archived {
					s.Archived(t)
				}
				s.Exec(t, `CHECKPOINT`)
				s.Exec(t, `CHECKPOINT`)
				s.Eventually(t, `SELECT wal_status FROM pg_replication_slots`, "lost")
				r = s.Receive(t, args...)
				if !archived {
					if code := r.Ended(t); code != 11 || !strings.Contains(r.Said(), "--accept-gap") {
						t.Errorf("exit code %d", code)
					}
					r = s.Receive(t, append(args, "--accept-gap")...)
				}
				s.Streaming(t, "async")
				s.Exec(t, `INSERT INTO x VALUES (2)`)
				s.Eventually(t, `SELECT flush_lsn = pg_current_wal_lsn() FROM pg_stat_replication`, "t")
				s.Eventually(t, `SELECT wal_status <> 'lost' FROM pg_replication_slots`, "t")
				if code := r.Stop(t, syscall.SIGTERM); code != 0 {
					t.Errorf("wal-receive ended with %d", code)
				}
				if archived {
					site.Must(t, s.Crash())
					if got := s.Spawn(t, s.Fetch(t), site.NoArchiving...).SQL(t, `SELECT sum(i) FROM x`); got != "12" {
						t.Errorf("the sum is %s", got)
					}
				}
			})
		}
	}
}

// The receiver refuses what contradicts the archive, settings that make no sense, and a server that does not let it.
func TestReceiveRefuses(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := onlyReceived(t, st, pgtest.Options{WALSegMB: 1, TCP: true})
	for _, c := range []struct {
		code       int
		kind, says string
		args       []string
	}{
		{2, "usage", "--create-slot needs", []string{"--create-slot"}}, {2, "usage", "--partial-interval", []string{"--partial-interval=0s"}},
		{9, "no-streaming", "no_such_slot", []string{"--slot=no_such_slot"}}, {9, "cannot-connect", "", []string{"--dsn=host=127.0.0.1 port=1"}},
		{1, "receive-directory", "/nonexistent", []string{"--spool=/nonexistent"}},
		{9, "cannot-connect", "42501", []string{"--dsn=user=weak host=" + s.SocketDir}},
	} {
		if strings.Contains(fmt.Sprint(c.args), "user=weak") {
			s.Exec(t, `CREATE ROLE weak LOGIN`)
		}
		if f := s.FailsWith(t, c.code, c.kind, append([]string{"wal-receive"}, c.args...)...); !f.Names(c.says) {
			t.Errorf("%v: %+v", c.args, f)
		}
	}
	// A password from ~/.pgpass, under the database "replication".
	s.Exec(t, `CREATE ROLE streamer LOGIN REPLICATION PASSWORD 'pa:ss\word'`)
	hba := filepath.Join(s.Data, "pg_hba.conf")
	site.WriteFile(t, hba, "host replication streamer 127.0.0.1/32 scram-sha-256\nlocal all all trust\nlocal replication postgres trust\n", 0o600)
	s.Exec(t, `SELECT pg_reload_conf()`)
	pass := filepath.Join(testenv.Dir(t), "pgpass")
	site.WriteFile(t, pass, fmt.Sprintf("127.0.0.1:%d:replication:streamer:pa\\:ss\\\\word\n", s.Port), 0o600)
	s.Settings = append(s.Settings, "PGPASSFILE="+pass)
	r := s.Receive(t, "--partial-interval=50ms", "--dsn=host=127.0.0.1 user=streamer")
	s.Streaming(t, "async")
	s.Exec(t, `SELECT pg_switch_wal()`)
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Eventually(t, `SELECT count(*) FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_lsn()`, "1")
	if code := r.Stop(t, syscall.SIGTERM); code != 0 {
		t.Error(code)
	}
	// Another content under the name of what comes next.
	pieces, err := filepath.Glob(filepath.Join(st.Directory, "main/wal/*/00000001/*.piece.zst"))
	site.Must(t, err)
	next := filepath.Base(pieces[len(pieces)-1])[:24]
	sysid := filepath.Base(filepath.Dir(filepath.Dir(pieces[0])))
	rig := &site.WalRig{Data: s.Data, Sysid: uint64(site.Number(t, sysid)), Pgobj: s.Pgobj, Env: s.Settings}
	other := filepath.Join(testenv.Dir(t), next)
	site.WriteFile(t, other, string(site.WalSegment(next, rig.Sysid, site.Mib, 7)), 0o600)
	s.Must(t, "wal-push", other)
	for _, p := range pieces {
		site.Must(t, os.Remove(p))
	}
	site.Must(t, os.Rename(filepath.Join(filepath.Dir(pieces[0]), next+".zst"), filepath.Join(st.Directory, "aside"))) // it begins before that
	r = s.Receive(t, "--partial-interval=50ms")
	s.Streaming(t, "async")
	site.Must(t, os.Rename(filepath.Join(st.Directory, "aside"), filepath.Join(filepath.Dir(pieces[0]), next+".zst")))
	s.Exec(t, `SELECT pg_switch_wal()`)
	if code := r.Ended(t); code != 7 || !strings.Contains(r.Said(), "different content") {
		t.Errorf("exit code %d", code)
	}
}

// A server that stops hands over all it has, and when it comes back the receiver goes on; so it does while three in ten
// requests to the storage fail.
func TestReceiveUnderFaults(t *testing.T) {
	t.Parallel()
	server := s3server.ForTest(t, s3server.MinIO)
	st := site.S3Store(t, server, "auto")
	proxy := faultproxy.ForTest(t, server.Endpoint)
	s := onlyReceived(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE w (i int, filler text)`)
	direct := s.Settings
	s.Settings = append(s.Settings[:len(s.Settings):len(s.Settings)], "PGOBJ_S3_ENDPOINT="+proxy.URL)
	r := s.Receive(t, "--slot=f", "--create-slot", "--synchronous", "--application-name=f")
	s.Streaming(t, "async")
	s.Settings = direct
	s.Must(t, "backup-push", "--wal-timeout=10m")
	for _, f := range []faultproxy.Fault{faultproxy.Fail(503, "SlowDown"), faultproxy.Fail(500, "InternalError"), faultproxy.Reset(0), faultproxy.Reset(900),
		faultproxy.DropResponse(), faultproxy.CutBody(700, faultproxy.CutClose)} {
		proxy.On(func(faultproxy.Request) bool { return rand.IntN(1000) < 58 }, f)
	}
	s.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'f'`)
	s.Exec(t, `SELECT pg_reload_conf()`)
	rows, acked := int64(25), int64(0)
	if site.Torture() {
		rows = 1000
	}
	for i := range 3 {
		w := s.Write(t, "w")
		w.Reaches(t, rows)
		w.Stop()
		<-w.Done
		acked += w.Acked.Load()
		if i == 0 {
			s.Stop(t, "fast")
			s.Start(t)
		}
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	site.Must(t, s.Crash())
	testenv.Eventually(t, site.Generous, "the loss is noticed", func() bool { return strings.Contains(site.LastLines(r.Said(), 3), "connecting again") })
	if code := r.Stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("wal-receive ended with %d", code)
	}
	c := s.Spawn(t, s.Fetch(t), "-c", "synchronous_standby_names=", "-c", "archive_mode=off")
	n := site.Number(t, c.SQL(t, `SELECT count(*) FROM w`))
	t.Logf("%d rows were acknowledged, %d are there; %d requests", acked, n, len(proxy.Requests()))
	if n < acked {
		t.Errorf("%d rows were acknowledged, %d are there", acked, n)
	}
	if o := s.Must(t, "wal-list"); strings.Contains(o.Out, "gap") {
		t.Error(o)
	}
}

// A server can be stopped while nothing can be stored: the receiver lets go of it, keeps what it has, and goes on when the
// storage is back. Nobody asks and answers without a pause meanwhile.
func TestServerStopsWithoutStorage(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := onlyReceived(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE w (i int)`)
	r := s.Receive(t, "--slot=f", "--create-slot", "--synchronous", "--application-name=f")
	s.Streaming(t, "async")
	s.Must(t, "backup-push", "--wal-timeout=10m")
	s.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'f'`)
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.Streaming(t, "sync")
	s.Exec(t, `INSERT INTO w VALUES (1)`)
	site.Must(t, os.Rename(st.Directory, st.Directory+".gone"))
	s.Exec(t, `SET synchronous_commit = local; INSERT INTO w VALUES (2); SELECT pg_switch_wal(); INSERT INTO w VALUES (3)`)
	safe := s.SQL(t, `SELECT flush_lsn FROM pg_stat_replication`)
	before := r.Cpu(t)
	if o := site.Finish(t, s.Program(s.Bin("pg_ctl"), "stop", "-m", "fast", "-t", "60", "-D", s.Data)); o.Code != 0 {
		t.Errorf("the server cannot be stopped: %v", o)
	}
	if took := r.Cpu(t) - before; took > 3*time.Second {
		t.Errorf("wal-receive used %v of CPU time meanwhile", took)
	}
	s.Start(t)
	if got := s.SQL(t, `SELECT restart_lsn <= '`+safe+`' FROM pg_replication_slots`); got != "t" {
		t.Errorf("the slot has passed %s, up to where all is stored", safe)
	}
	site.Must(t, os.Rename(st.Directory+".gone", st.Directory))
	s.Streaming(t, "sync")
	s.Exec(t, `INSERT INTO w VALUES (4)`)
	if code := r.Stop(t, syscall.SIGTERM); code != 0 || !strings.Contains(r.Said(), "all of it") {
		t.Errorf("wal-receive ended with %d", code)
	}
	site.Must(t, s.Crash())
	c := s.Spawn(t, s.Fetch(t), "-c", "synchronous_standby_names=", "-c", "archive_mode=off")
	if got := c.SQL(t, `SELECT string_agg(i::text, ' ') FROM w`); got != "1 2 3 4" {
		t.Errorf("rows %s", got)
	}
	s.Must(t, "wal-verify")
}

// What was received is nowhere when the storage was lost before it was stored: wal-receive says so when it is ended.
func TestReceivedAndNotStored(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := onlyReceived(t, st, pgtest.Options{WALSegMB: 1})
	r := s.Receive(t, "--partial-interval=1h")
	s.Streaming(t, "async")
	site.Must(t, os.Rename(st.Directory, st.Directory+".gone"))
	s.Exec(t, `CREATE TABLE w (i int)`)
	s.Eventually(t, `SELECT sent_lsn = pg_current_wal_lsn() FROM pg_stat_replication`, "t")
	if code := r.Stop(t, syscall.SIGTERM); code != 3 || !strings.Contains(r.Said(), " on is not stored") {
		t.Errorf("wal-receive ended with %d", code)
	}
}

package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/segment"
)

func connect(t testing.TB, dsn string) *Session {
	t.Helper()
	s, err := Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// A role as the manual would have it: no superuser, just the rights that a backup takes.
func grantBackup(t *testing.T, c *pgtest.Cluster) string {
	start, stop := "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"
	if c.Major < 15 {
		start, stop = "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"
	}
	c.Exec(t, "CREATE ROLE backup LOGIN IN ROLE pg_read_all_settings; ALTER ROLE backup SET statement_timeout = '100ms';"+
		"GRANT EXECUTE ON FUNCTION "+start+" TO backup; GRANT EXECUTE ON FUNCTION "+stop+" TO backup")
	return strings.Replace(c.DSN("postgres"), "user=postgres", "user=backup", 1)
}

func TestBackupOnEachVersion(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			testBackup(t, major)
		})
	}
}

func testBackup(t *testing.T, major int) {
	size := 16
	if major > 10 {
		size = 1
	}
	archive := testenv.Dir(t)
	c := pgtest.Start(t, pgtest.Options{Major: major, WALSegMB: size, Checksums: true, Conf: []string{
		"archive_mode = on", "archive_command = 'cp %p " + archive + "/%f'", "include_if_exists = 'more.conf'"}})
	if err := os.WriteFile(filepath.Join(c.Data, "more.conf"), []byte("work_mem = '5MB'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Exec(t, "SELECT pg_reload_conf()")
	c.Eventually(t, "SHOW work_mem", "5MB")
	space := testenv.Dir(t)
	c.Exec(t, "CREATE TABLESPACE \"Raum\" LOCATION '"+space+"'")

	s := connect(t, grantBackup(t, c))
	if rows, err := s.query(t.Context(), `SELECT current_setting('lock_timeout'), current_setting('statement_timeout')`); err != nil || rows[0][0] != lockTimeout || rows[0][1] != "0" {
		t.Errorf("the session's limits are %v (%v)", rows, err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctl, _, err := datadir.ReadControl(c.Data)
	if err != nil {
		t.Fatal(err)
	}
	if info.Major() != major || info.SystemID != ctl.SystemID || info.CatalogVersion != ctl.CatalogVersion || info.DataDirectory != c.Data ||
		info.SegmentSize != segment.Size(size)<<20 || info.SegmentSize != ctl.SegmentSize || info.BlockSize != 8192 ||
		!info.DataChecksums || info.InRecovery || info.ArchiveMode != "on" || !strings.Contains(info.ArchiveCommand, archive) ||
		!info.FullPageWrites || info.WALLevel != "replica" || time.Since(info.PostmasterStart).Abs() > time.Hour ||
		!strings.HasPrefix(info.Version, fmt.Sprint(major)) {
		t.Errorf("%+v", info)
	}
	if want := []catalog.Tablespace{{OID: info.Tablespaces[0].OID, Name: "Raum", Location: space}}; !slices.Equal(info.Tablespaces, want) {
		t.Errorf("%+v, want %+v", info.Tablespaces, want)
	}
	for _, f := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf", "more.conf"} {
		if !slices.Contains(info.ConfigFiles, filepath.Join(c.Data, f)) {
			t.Errorf("%s is not among %v", f, info.ConfigFiles)
		}
	}

	start, err := s.Start(t.Context(), "prüf 'em", true)
	if err != nil {
		t.Fatal(err)
	}
	c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000)")
	stop, err := s.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	label, err := datadir.ParseLabel(stop.Label)
	if err != nil {
		t.Fatal(err)
	}
	if label.StartLSN != start.LSN || label.Timeline != start.Timeline || start.Timeline != 1 || stop.Timeline != 1 ||
		stop.LSN <= start.LSN || stop.Time.Before(start.Time) || time.Since(start.Time).Abs() > time.Hour ||
		label.StartFile != segment.At(1, start.LSN, info.SegmentSize).Name(info.SegmentSize) ||
		label.Checkpoint < label.StartLSN || label.Method != "streamed" || label.Label != "prüf 'em" || label.Incremental {
		t.Errorf("start %+v\nstop %+v\nlabel %+v", start, stop, label)
	}
	if want := fmt.Sprintf("%d %s\n", info.Tablespaces[0].OID, space); string(stop.TablespaceMap) != want {
		t.Errorf("tablespace map %q, want %q", stop.TablespaceMap, want)
	}
	testArchiver(t, s, c, segment.Before(1, stop.LSN, info.SegmentSize).Name(info.SegmentSize))

	if _, err := s.Stop(t.Context()); err == nil || errors.Is(err, ErrSessionLost) {
		t.Errorf("stopped twice: %v", err)
	}
	if _, err := s.Start(t.Context(), "two\nlines", true); err == nil {
		t.Error("a label of two lines is accepted")
	}
}

func testArchiver(t *testing.T, s *Session, c *pgtest.Cluster, last string) {
	t.Helper()
	testenv.Eventually(t, time.Minute, last+" is archived", func() bool {
		a, err := s.Archiver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return a.LastArchived >= last && a.ArchivedCount > 0 && time.Since(a.LastArchivedAt).Abs() < time.Hour
	})
	c.Exec(t, "ALTER SYSTEM SET archive_command = 'false'")
	c.Exec(t, "SELECT pg_reload_conf()")
	c.Exec(t, "CREATE TABLE u()")
	c.Exec(t, "SELECT pg_switch_wal()")
	testenv.Eventually(t, time.Minute, "a failure is seen", func() bool {
		a, err := s.Archiver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return a.FailedCount > 0 && a.LastFailed > last && a.LastFailedAt.After(a.LastArchivedAt)
	})
}

func TestPathsAreBytes(t *testing.T) {
	// The server would convert paths from the database's encoding when the client asked for UTF-8.
	c := pgtest.Start(t, pgtest.Options{InitdbArgs: []string{"--encoding=LATIN1"}})
	space := testenv.Dir(t) + "/räum"
	if err := errors.Join(os.Mkdir(space, 0o700), testenv.ChownPostgres(space)); err != nil {
		t.Fatal(err)
	}
	s := connect(t, c.DSN("postgres"))
	if _, err := s.query(t.Context(), "CREATE TABLESPACE r LOCATION '"+space+"'"); err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil || info.Tablespaces[0].Location != space {
		t.Errorf("%+v, %v; want %s", info.Tablespaces, err, space)
	}
	if _, err := s.Start(t.Context(), "x", true); err != nil {
		t.Fatal(err)
	}
	stop, err := s.Stop(t.Context())
	if err != nil || !bytes.Contains(stop.TablespaceMap, []byte(space+"\n")) {
		t.Errorf("tablespace map %q, %v; want %s", stop.TablespaceMap, err, space)
	}
}

func TestWatch(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Template: true})
	s := connect(t, c.DSN("postgres"))
	s.PingEvery = time.Millisecond
	if _, err := s.Start(t.Context(), "x", true); err != nil {
		t.Fatal(err)
	}
	ctx, stop := s.Watch(t.Context())
	for range 100 { // while pings go on
		if _, err := s.Archiver(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	stop()
	if context.Cause(ctx) != context.Canceled {
		t.Errorf("stopped: %v", context.Cause(ctx))
	}
	if _, err := s.Stop(t.Context()); err != nil {
		t.Errorf("after the watch: %v", err)
	}

	ctx, stop = s.Watch(t.Context())
	defer stop()
	c.Exec(t, "SELECT pg_terminate_backend($1)", s.conn.PID())
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute):
		t.Fatal("the session was killed and the watch did not see it")
	}
	if err := context.Cause(ctx); !errors.Is(err, ErrSessionLost) || !strings.Contains(err.Error(), "backup is not valid") {
		t.Errorf("cause: %v", err)
	}
	if _, err := s.Stop(t.Context()); !errors.Is(err, ErrSessionLost) {
		t.Errorf("stop: %v", err)
	}
}

func TestCancelledCallEndsOnTheServer(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Template: true})
	s := connect(t, c.DSN("postgres"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.query(ctx, "SELECT pg_sleep(3600)")
		ended <- err
	}()
	const sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
	c.Eventually(t, sleeping, "1")
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	c.Eventually(t, sleeping, "0")
}

func TestStandbyBackupAndPromotion(t *testing.T) {
	primary := pgtest.Start(t, pgtest.Options{})
	data := testenv.Dir(t) + "/standby"
	pgtest.Run(t, primary.Bin("pg_basebackup"), "-d", primary.DSN("postgres"), "-D", data, "-R", "-X", "stream", "-c", "fast")
	standby, err := pgtest.Open(t, data, 15)
	if err != nil {
		t.Fatal(err)
	}
	primary.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000)")
	primary.Exec(t, "CHECKPOINT")
	standby.Eventually(t, "SELECT pg_last_wal_replay_lsn() >= '"+primary.SQL(t, "SELECT pg_current_wal_lsn()")+"'", "t")

	s := connect(t, standby.DSN("postgres"))
	s.PingEvery = time.Millisecond
	start, err := s.Start(t.Context(), "x", true)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := s.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	label, err := datadir.ParseLabel(stop.Label)
	if err != nil || label.From != "standby" || label.StartLSN != start.LSN || stop.LSN < start.LSN || stop.Timeline != 1 {
		t.Errorf("start %+v, stop %+v, label %+v, %v", start, stop, label, err)
	}
	ctl, _, err := datadir.ReadControl(standby.Data)
	if err != nil || ctl.State != datadir.InArchiveRecovery || ctl.MinRecoveryPoint < stop.LSN || ctl.MinRecoveryTimeline != 1 {
		t.Errorf("%+v, %v", ctl, err)
	}

	if _, err := s.Start(t.Context(), "y", true); err != nil {
		t.Fatal(err)
	}
	ctx, end := s.Watch(t.Context())
	defer end()
	standby.Exec(t, "SELECT pg_promote()")
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, ErrPromoted) {
		t.Errorf("cause: %v", err)
	}
	if _, err := s.Stop(t.Context()); !errors.Is(err, ErrPromoted) {
		t.Errorf("a backup over a promotion was stopped with: %v", err)
	}
}

func TestPoolerIsRefused(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Template: true, TCP: true})
	pooler := fmt.Sprintf("host=127.0.0.1 port=%d user=postgres sslmode=disable", announceOtherPID(t, c.Port))
	if s, err := Connect(t.Context(), pooler); !errors.Is(err, ErrPooler) {
		t.Errorf("%v, %v; want ErrPooler", s, err)
	}
}

// announceOtherPID does what every pooler does: it gives clients a process ID of its own making.
func announceOtherPID(t *testing.T, port int) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return
		}
		defer server.Close()
		go io.Copy(server, client)
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if i := bytes.Index(buf[:n], []byte{'K', 0, 0, 0, 12}); i >= 0 && i+9 <= n {
				buf[i+8] ^= 1 // the lowest byte of the number
			}
			if _, werr := client.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func TestNoServer(t *testing.T) {
	_, err := Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=x sslmode=disable", testenv.FreePort(t)))
	if _, ok := errors.AsType[*pgconn.ConnectError](err); !ok {
		t.Errorf("%v", err)
	}
	if _, err := Connect(t.Context(), "no dsn"); err == nil {
		t.Error("a senseless connection string is accepted")
	}
}

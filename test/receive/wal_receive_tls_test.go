package receive

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// certificates are a server certificate for 127.0.0.1 with its key, and the private CA that it is from, for PostgreSQL.
func certificates(t *testing.T) (cert, key, ca string) {
	t.Helper()
	dir := testenv.Dir(t)
	site.Must(t, s3server.MakeCerts(dir))
	cert, key, ca = filepath.Join(dir, "public.crt"), filepath.Join(dir, "private.key"), filepath.Join(dir, "CAs/ca.crt")
	site.Must(t, os.Chmod(key, 0o600)) // or PostgreSQL refuses it
	site.Must(t, testenv.ChownPostgres(dir))
	return cert, key, ca
}

// A server that only takes encrypted connections, with a certificate of a private CA: wal-receive checks it as it is told,
// streams, and reports what it has stored up to its very end.
func TestReceiveOverTLS(t *testing.T) {
	t.Parallel()
	cert, key, ca := certificates(t)
	_, _, otherCA := certificates(t)
	s := onlyReceived(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1, TCP: true, Conf: []string{"ssl = on", "ssl_cert_file = '" + cert + "'", "ssl_key_file = '" + key + "'"}})
	s.Exec(t, `CREATE ROLE streamer LOGIN REPLICATION PASSWORD 'secret'`)
	site.WriteFile(t, filepath.Join(s.Data, "pg_hba.conf"), "hostssl replication streamer 127.0.0.1/32 scram-sha-256\nlocal all all trust\nlocal replication all trust\n", 0o600)
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.Settings = append(s.Settings, "PGPASSWORD=secret")
	for _, c := range []struct {
		code      int
		kind, dsn string
	}{
		{site.ExitPostgres, "postgres-certificate", "host=127.0.0.1 sslmode=verify-full sslrootcert=" + otherCA},
		{site.ExitPostgres, "postgres-certificate", "host=127.0.0.1 sslmode=verify-full"}, // not one of the system's
		{site.ExitPostgres, "no-hba-line", "host=127.0.0.1 sslmode=disable"},
		{site.ExitUsage, "connection-settings", "host=127.0.0.1 sslmode=verify-ca sslrootcert=" + ca + ".not"},
	} {
		o := s.Run(t, "--log-format=json", "wal-receive", "--dsn="+c.dsn+" user=streamer")
		if o.MustFail(t, c.code, c.kind); strings.Contains(o.Err, "secret") {
			t.Errorf("%s: %v", c.dsn, o)
		}
	}
	s.Settings = append(s.Settings, "PGSSLMODE=verify-full", "PGSSLROOTCERT="+ca)
	r := s.Receive(t, "--slot=tls", "--create-slot", "--synchronous", "--application-name=tls", fmt.Sprintf("--dsn=postgres://streamer@127.0.0.1:%d", s.Port))
	s.Streaming(t, "async")
	if got := s.SQL(t, `SELECT ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)`); got != "t" {
		t.Errorf("encrypted: %q", got)
	}
	s.Must(t, "backup-push", "--wal-timeout=10m") // by the socket, on which there is no encryption
	s.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'tls'`)
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.Streaming(t, "sync")
	s.Exec(t, `CREATE TABLE w (i int, filler text)`)
	w := s.Write(t, "w")
	w.Reaches(t, 100)
	s.Exec(t, `INSERT INTO w SELECT 0, string_agg(md5(random()::text || i), '') FROM generate_series(1, 300000) i GROUP BY i % 10`) // 10 MB
	w.Reaches(t, w.Acked.Load()+20)
	w.Stop()
	<-w.Done
	acked := w.Acked.Load()
	if code := r.Stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("wal-receive ended with %d", code)
	}
	stopped := regexp.MustCompile(`stopped at (\S+) on timeline 1; all`).FindStringSubmatch(r.Said())
	if stopped == nil {
		t.Fatalf("it does not say where it stopped")
	}
	s.Eventually(t, `SELECT restart_lsn FROM pg_replication_slots WHERE NOT active`, stopped[1])
	site.Must(t, s.Crash())
	c := s.Spawn(t, s.Fetch(t), "-c", "synchronous_standby_names=", "-c", "archive_mode=off", "-c", "ssl=off")
	if n := site.Number(t, c.SQL(t, `SELECT count(*) FROM w WHERE i > 0`)); n < acked {
		t.Errorf("%d rows were acknowledged, %d are there", acked, n)
	}
}

// Row 11: segments of other sizes are archived, received, fetched ahead, checked and recovered, whole and as far as received.
func TestSegmentSizes(t *testing.T) {
	t.Parallel()
	sizes := []int{64}
	if site.Torture() {
		sizes = []int{1, 2, 32, 64, 256, 1024}
	}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			st := site.DirectoryStore(t)
			s := site.NewSite(t, st, pgtest.Options{WALSegMB: size, Conf: []string{"max_wal_size = '8GB'"}})
			s.Exec(t, `CREATE TABLE w (i int, filler text)`)
			s.Backup(t)
			s.Exec(t, `INSERT INTO w SELECT i, string_agg(md5(random()::text || j), '') FROM generate_series(1, 100) i, generate_series(1, 1000) j GROUP BY i`) // 3 MB
			r := s.Receive(t, "--slot=r", "--create-slot", "--partial-interval=100ms", "--application-name=r")
			s.Streaming(t, "async")
			for range 5 {
				s.Exec(t, `INSERT INTO w SELECT i, md5(i::text) FROM generate_series(101, 1100) i`)
				s.Archived(t)
			}
			// More than one piece can hold, where a segment has more.
			for range min(40, size-1) {
				s.Exec(t, `INSERT INTO w SELECT 0, string_agg(md5(random()::text || j), '') FROM generate_series(1, 32000) j`)
			}
			s.Eventually(t, `SELECT flush_lsn = pg_current_wal_lsn() FROM pg_stat_replication`, "t")
			want := site.Contents(t, s.Cluster, "postgres")
			site.Must(t, s.Crash())
			if code := r.Stop(t, syscall.SIGTERM); code != 0 {
				t.Errorf("wal-receive ended with %d", code)
			}
			full, pieces := site.SegmentsOf(t, st.Directory, 1)
			if len(full) < 6 || size > 40 && len(pieces) < 2 {
				t.Errorf("there are %d segments, and the pieces %v", len(full), pieces)
			}
			s.Must(t, "wal-list")
			s.Must(t, "wal-verify")
			site.SameContents(t, s.Spawn(t, s.Fetch(t), site.NoArchiving...), "postgres", want)
			dir := testenv.Dir(t)
			s.Must(t, "wal-fetch", "--range", site.FirstOf(full)+".."+site.LastOf(full), dir)
			fetched, err := filepath.Glob(filepath.Join(dir, "0*"))
			if err != nil || len(fetched) != len(full) {
				t.Errorf("%d of %d segments were fetched: %v", len(fetched), len(full), err)
			}
			for _, f := range fetched {
				if info, err := os.Stat(f); err != nil || info.Size() != int64(size)<<20 {
					t.Errorf("%v, %v", info, err)
				}
			}
		})
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/testenv"
)

// pileTool archives and fetches segments, called as PostgreSQL calls it: one process after the other, in
// the data directory, by a shell.
type pileTool struct {
	name        string
	push, fetch string // %p and %f as in PostgreSQL's settings
	prepare     string // before each round; $ROUND is a place that is used once
	env         []string
	pushed      []time.Duration
	fetched     []time.Duration
}

// pile is a number of full segments that wait in the pg_wal of a stopped server.
type pile struct {
	title string
	data  string
	names []string
	tools []*pileTool
}

// measurePiles measures how long it takes to archive a pile of segments and to fetch them again in order: 64 of
// 16 MB to MinIO over TLS, beside pgBackRest with the settings that -only asks for, and 300 of 1 MB to a directory, beside cp.
func (b *bench) measurePiles(ctx context.Context) error {
	if b.pileRounds == 0 {
		return nil
	}
	dir, err := b.directory("piles")
	if err != nil {
		return err
	}
	server, env, err := b.walServer(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop() }() // the process ends with us in any case
	tools := b.pileS3Tools(server, dir, env)
	directory := filepath.Join(dir, "directory")
	small := []*pileTool{
		{name: "cp", prepare: "rm -rf " + directory + "; mkdir " + directory, push: "test ! -f " + directory + "/%f && cp %p " + directory + "/%f && sync -f " + directory + "/%f", fetch: "cp " + directory + "/%f %p"},
		{name: "pgobj", prepare: "rm -rf " + directory + "; mkdir " + directory, env: []string{"PGOBJ_STORAGE=file://" + directory}, push: b.pgobj + " wal-push %p", fetch: b.pgobj + " wal-fetch %f %p"},
	}
	for _, p := range []*pile{{title: "16 MB segments to MinIO over TLS", tools: tools}, {title: "1 MB segments to a directory", tools: small}} {
		mb, count := 16, b.pileSegments
		if p.tools[0].name == "cp" {
			mb, count = 1, 300*b.pileSegments/64
		}
		if err := b.makePile(ctx, p, mb, count); err != nil {
			return err
		}
		for round := range b.pileRounds {
			order := slices.Clone(p.tools)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, t := range order {
				b.log.Printf("%d %s: %s", len(p.names), p.title, t.name)
				if err := p.measure(ctx, t, round); err != nil {
					return fmt.Errorf("%s: %w", t.name, err)
				}
			}
		}
		b.piles = append(b.piles, p)
	}
	return nil
}

// walServer starts MinIO with TLS, and returns what pgobj needs to use it; its certificate lies in dir as ca.pem.
func (b *bench) walServer(ctx context.Context, dir string) (*s3server.Server, []string, error) {
	s, err := s3server.Start(ctx, s3server.MinIOTLS)
	if err != nil {
		return nil, nil, err
	}
	pem, err := os.ReadFile(s.CAFile) // lies where the user postgres cannot read it
	ca := filepath.Join(dir, "ca.pem")
	if err == nil {
		err = os.WriteFile(ca, pem, 0o644)
	}
	if err != nil {
		return nil, nil, errors.Join(err, s.Stop())
	}
	return s, append(s.Env(), "PGOBJ_S3_ENDPOINT="+s.Endpoint, "PGOBJ_S3_CA_FILE="+ca), nil
}

func (b *bench) pileS3Tools(s *s3server.Server, dir string, env []string) []*pileTool {
	host := strings.TrimPrefix(s.Endpoint, "https://")
	_, port, _ := strings.Cut(host, ":") // pgbackrest knows no IP addresses in certificates
	backrest := func(async bool, spool string) (string, string) {
		c := "pgbackrest --no-config --stanza=main --pg1-path=$PWD --repo1-type=s3 --repo1-path=/$ROUND --repo1-s3-bucket=" + s.Bucket + " --repo1-s3-endpoint=localhost" +
			" --repo1-storage-port=" + port + " --repo1-s3-region=" + s.Region + " --repo1-s3-uri-style=path --repo1-storage-ca-file=" + dir + "/ca.pem" +
			" --lock-path=" + dir + "/lock/$ROUND --log-level-file=off --log-level-console=warn"
		if async {
			return c, " --archive-async --process-max=2 --spool-path=" + spool
		}
		return c, ""
	}
	keys := []string{"PGBACKREST_REPO1_S3_KEY=" + s.AccessKey, "PGBACKREST_REPO1_S3_KEY_SECRET=" + s.SecretKey}
	var tools []*pileTool
	for _, how := range []struct {
		async       bool
		kind, level string
	}{{false, "zst", "1"}, {true, "zst", "1"}, {true, "zst", "3"}, {true, "gz", "6"}} { // its fastest; the one with objects of our size; its default
		if !b.wanted("pgbackrest " + how.kind + ":" + how.level) {
			continue
		}
		spool := filepath.Join(dir, "spool/$ROUND") // and a lock: its process of the round before may still be there
		base, more := backrest(how.async, spool)
		tools = append(tools, &pileTool{name: "pgbackrest " + map[bool]string{false: "sync", true: "async"}[how.async] + " " + how.kind + ":" + how.level, env: keys,
			prepare: "mkdir -p " + spool + "; " + base + " --no-online stanza-create",
			push:    base + more + " --compress-type=" + how.kind + " --compress-level=" + how.level + " archive-push %p", fetch: base + more + " archive-get %f %p"})
	}
	storage := "PGOBJ_STORAGE=s3://" + s.Bucket + "/$ROUND "
	for _, ahead := range []bool{true, false} {
		t := &pileTool{name: "pgobj", env: env, push: storage + b.pgobj + " wal-push %p", fetch: storage + b.pgobj + " wal-fetch %f %p"}
		if !ahead {
			t.name, t.env = "pgobj, nothing ahead", append(slices.Clone(env), "PGOBJ_WAL_PUSH_AHEAD=1", "PGOBJ_WAL_PREFETCH=0")
		}
		tools = append(tools, t)
	}
	return tools
}

// makePile has pgbench write WAL that is not archived, and stops the server.
func (b *bench) makePile(ctx context.Context, p *pile, segmentMB, count int) (err error) {
	c, err := pgtest.Create(ctx, pgtest.Options{WALSegMB: segmentMB, Conf: []string{"archive_mode = on", "archive_command = 'false'", "max_wal_size = '8GB'", "fsync = off"}, DataDir: filepath.Join(b.base, fmt.Sprintf("pile-%d", segmentMB))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Launch(ctx); err != nil {
		return err
	}
	for first := true; ; first = false {
		args := []string{"--no-vacuum", "--transactions=2000", "--client=4"}
		if first {
			args = []string{"--initialize", "--scale=10", "--quiet"}
		}
		cmd := exec.CommandContext(ctx, c.Bin("pgbench"), args...)
		cmd.Env = append(os.Environ(), c.Env()...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("pgbench: %w\n%s", err, out)
		}
		if _, err := c.Query(ctx, "postgres", "CHECKPOINT"); err != nil {
			return err
		}
		ready, err := filepath.Glob(filepath.Join(c.Data, "pg_wal/archive_status/*.ready"))
		if err != nil {
			return err
		}
		if len(ready) < count {
			continue
		}
		slices.Sort(ready)
		for _, r := range ready[:count] {
			p.names = append(p.names, strings.TrimSuffix(filepath.Base(r), ".ready"))
		}
		p.data = c.Data
		return c.Shutdown("immediate")
	}
}

// measure archives the pile as the archiver does, and fetches it as a recovery does.
func (p *pile) measure(ctx context.Context, t *pileTool, round int) error {
	env := append([]string{"PATH=" + os.Getenv("PATH"), fmt.Sprintf("ROUND=%s-%d", strings.NewReplacer(" ", "-", ":", "", ",", "").Replace(t.name), round)}, t.env...)
	run := func(command, name, path string) error {
		cmd := testenv.AsPostgres(exec.CommandContext(ctx, "sh", "-c", strings.NewReplacer("%p", path, "%f", name).Replace(command)))
		cmd.Dir, cmd.Env = p.data, env
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, out)
		}
		return nil
	}
	status := filepath.Join(p.data, "pg_wal/archive_status")
	old, err := filepath.Glob(filepath.Join(status, "*"))
	if err != nil {
		return err
	}
	for _, f := range append(old, filepath.Join(p.data, "pgsql_tmp_pgobj")) {
		if err := os.RemoveAll(f); err != nil {
			return err
		}
	}
	for _, name := range p.names {
		ready := filepath.Join(status, name+".ready")
		if err := errors.Join(os.WriteFile(ready, nil, 0o600), testenv.ChownPostgres(ready)); err != nil {
			return err
		}
	}
	server, stop, err := testenv.StandIn() // to the tools it is the server
	if err != nil {
		return err
	}
	defer stop()
	pid := filepath.Join(p.data, "postmaster.pid")
	if err := os.WriteFile(pid, fmt.Appendf(nil, "%d\n%s\n%d\n", server, p.data, time.Now().UnixNano()), 0o644); err != nil {
		return err
	}
	defer func() { _ = os.Remove(pid) }()
	if t.prepare != "" {
		if err := run(t.prepare, "", ""); err != nil {
			return err
		}
	}
	syscall.Sync()
	start := time.Now()
	for _, name := range p.names {
		if err := run(t.push, name, "pg_wal/"+name); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(status, name+".ready"), filepath.Join(status, name+".done")); err != nil {
			return err
		}
	}
	t.pushed = append(t.pushed, time.Since(start))
	return p.measureFetch(t, run)
}

// measureFetch looks to the tools like a recovery. What they fetched is compared, outside of the time that is taken.
func (p *pile) measureFetch(t *pileTool, run func(command, name, path string) error) error {
	signal := filepath.Join(p.data, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(signal) }()
	took := time.Duration(0)
	got := filepath.Join(p.data, "pg_wal/RECOVERYXLOG")
	syscall.Sync()
	for _, name := range p.names {
		_ = os.Remove(got) // as PostgreSQL does
		start := time.Now()
		if err := run(t.fetch, name, "pg_wal/RECOVERYXLOG"); err != nil {
			return err
		}
		took += time.Since(start)
		a, err1 := os.ReadFile(got)
		b, err2 := os.ReadFile(filepath.Join(p.data, "pg_wal", name))
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			return fmt.Errorf("%s comes back different: %w", name, errors.Join(err1, err2))
		}
	}
	t.fetched = append(t.fetched, took)
	return nil
}

// pileText is the result in Markdown.
func (b *bench) pileText(w *strings.Builder) {
	for _, p := range b.piles {
		fmt.Fprintf(w, "\n%d %s, one command after the other as PostgreSQL calls them, median of %d rounds:\n\n| tool | archive all | segments/s | fetch all in order | segments/s |\n| --- | --- | --- | --- | --- |\n", len(p.names), p.title, b.pileRounds)
		for _, t := range p.tools {
			push, fetch := medianOf(t.pushed), medianOf(t.fetched)
			fmt.Fprintf(w, "| %s | %.2f s | %.1f | %.2f s | %.1f |\n", t.name, push, float64(len(p.names))/push, fetch, float64(len(p.names))/fetch)
		}
	}
}

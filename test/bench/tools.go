package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgobj/pgobj/test/testenv"
)

// tool is one program with its settings, and what it needed in each round.
type tool struct {
	name     string
	settings string
	env      []string

	archiveEnv      func(run1) []string // pgobj's settings for archive_command; nil: to b.archive
	prepare         func(context.Context, run1) error
	backup, restore func(run1) []string
	stored          func(context.Context, run1) (int64, error) // bytes, without WAL

	samples []sample
}

// run1 is what the commands of one measurement have in common.
type run1 struct {
	round              int
	repository, target string // empty directories
	again              bool   // the repository holds a backup before this one
}

// prefix is a place in the S3 server that is used once.
func (r run1) prefix(tool string) string { return fmt.Sprintf("%s-%d", tool, r.round) }

// makeTools returns what is compared, pairs side by side.
func (b *bench) makeTools() ([]*tool, error) {
	all := []*tool{
		b.pgobjTool("pgobj zstd", "zstd"),
		b.pgbackrest("pgbackrest zst:3", "zst", 3),
		b.pgbackrest("pgbackrest zst:1", "zst", 1),
		b.pgbackrest("pgbackrest zst:3 bundle", "zst", 3, "--repo1-bundle"), // not its default, but kinder to small files
		b.pgobjTool("pgobj lz4", "lz4"),
		b.pgbackrest("pgbackrest lz4", "lz4", 1),
		b.baseBackupTar(),
		b.baseBackupPlain(),
		b.pgobjS3(),
		b.barman("barman-cloud (S3)", "no compression"),
		b.barman("barman-cloud gzip (S3)", "gzip", "--gzip"),
	}
	var tools []*tool
	for _, t := range all {
		if b.wanted(t.name) {
			tools = append(tools, t)
		}
	}
	if len(tools) == 0 && b.only != "none" {
		return nil, fmt.Errorf("-only %s: no tool has such a name (to measure none: -only none)", b.only)
	}
	return tools, nil
}

// pileSettings are pgBackRest's in the pile of WAL that makeTools does not have.
const pileSettings = "pgbackrest gz:6"

// peers returns the programs, other than pgobj and PostgreSQL's, that -only asks for.
func (b *bench) peers() (programs []string) {
	var names []string
	for _, t := range b.tools {
		names = append(names, t.name)
	}
	if b.pileRounds > 0 && b.wanted(pileSettings) {
		names = append(names, pileSettings)
	}
	for _, program := range []string{"pgbackrest", "barman-cloud-backup"} {
		if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, program[:6]) }) {
			programs = append(programs, program)
		}
	}
	return programs
}

// checkPeers says early what would fail late.
func (b *bench) checkPeers() error {
	for _, program := range b.peers() {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing: run test/install bench (or leave it out with -only)", program)
		}
	}
	return nil
}

func (b *bench) pgobjTool(name, compression string) *tool {
	storage := func(r run1) string { return "file://" + r.repository }
	return &tool{
		name: name, settings: fmt.Sprintf("--compression %s --jobs %d", compression, b.jobs), env: b.cluster.Env(),
		archiveEnv: func(r run1) []string { return []string{"PGOBJ_STORAGE=" + storage(r)} },
		backup: func(r run1) []string {
			return []string{b.pgobj, "backup-push", "--storage", storage(r), "--compression", compression, "--jobs", strconv.Itoa(b.jobs)}
		},
		restore: func(r run1) []string {
			return []string{b.pgobj, "backup-fetch", "--storage", storage(r), "--jobs", strconv.Itoa(b.jobs), r.target}
		},
		stored: func(_ context.Context, r run1) (int64, error) { return treeSize(r.repository, "wal") },
	}
}

func (b *bench) pgobjS3() *tool {
	env := append(b.s3.Env(), "PGOBJ_S3_ENDPOINT="+b.s3.Endpoint)
	storage := func(r run1) string { return b.s3.URL(r.prefix("pgobj")) }
	return &tool{
		name: "pgobj zstd (S3)", settings: fmt.Sprintf("--compression zstd --jobs %d", b.jobs), env: append(env, b.cluster.Env()...),
		archiveEnv: func(r run1) []string { return append([]string{"PGOBJ_STORAGE=" + storage(r)}, env...) },
		backup: func(r run1) []string {
			return []string{b.pgobj, "backup-push", "--storage", storage(r), "--jobs", strconv.Itoa(b.jobs)}
		},
		restore: func(r run1) []string {
			return []string{b.pgobj, "backup-fetch", "--storage", storage(r), "--jobs", strconv.Itoa(b.jobs), r.target}
		},
		stored: func(ctx context.Context, r run1) (int64, error) { return b.bucketSize(ctx, r.prefix("pgobj"), "/wal/") },
	}
}

// pgbackrest archives by a command of its own, and there is one archive_command; so it is told not to look
// for WAL in its repository, and spared the wait for the last segment that pgobj has.
func (b *bench) pgbackrest(name, compression string, level int, more ...string) *tool {
	command := func(r run1, pgdata string, args ...string) []string {
		return append([]string{"pgbackrest", "--no-config", "--stanza=main", "--pg1-path=" + pgdata, "--repo1-path=" + r.repository,
			"--lock-path=" + filepath.Join(b.base, "lock"), "--log-level-file=off", "--log-level-console=warn"}, args...)
	}
	server := []string{"--pg1-port=" + strconv.Itoa(b.cluster.Port), "--pg1-socket-path=" + b.cluster.SocketDir, "--pg1-user=postgres"}
	jobs := fmt.Sprintf("--process-max=%d", b.jobs)
	return &tool{
		name: name, settings: fmt.Sprintf("--compress-type=%s --compress-level=%d %s --no-archive-check %s", compression, level, jobs, strings.Join(more, " ")),
		prepare: func(ctx context.Context, r run1) error {
			if _, err := b.directory("lock"); err != nil {
				return err
			}
			_, err := measure(ctx, nil, 0, command(r, b.cluster.Data, append(slices.Clone(server), "stanza-create")...)...)
			return err
		},
		backup: func(r run1) []string {
			kind := map[bool]string{false: "--type=full", true: "--type=incr"}[r.again]
			return command(r, b.cluster.Data, append(slices.Concat(server, more), kind, "--start-fast", "--no-archive-check", "--no-expire-auto",
				"--repo1-retention-full=9", "--compress-type="+compression, "--compress-level="+strconv.Itoa(level), jobs, "backup")...)
		},
		restore: func(r run1) []string { return command(r, r.target, jobs, "restore") },
		stored: func(_ context.Context, r run1) (int64, error) {
			return treeSize(filepath.Join(r.repository, "backup"))
		},
	}
}

func (b *bench) baseBackupTar() *tool {
	compress := fmt.Sprintf("client-zstd:level=1,workers=%d", b.jobs)
	return &tool{
		name: "pg_basebackup tar zstd", settings: "-Ft -Xnone -Z " + compress + "; restored by zstd | tar, then sync", env: b.cluster.Env(),
		backup: func(r run1) []string {
			return []string{b.cluster.Bin("pg_basebackup"), "-D", r.repository, "-Ft", "-Xnone", "-cfast", "-Z", compress}
		},
		restore: func(r run1) []string {
			return shell(`zstd -qdc "$1/base.tar.zst" | tar -x -C "$2" && sync -f "$2"`, r.repository, r.target)
		},
		stored: func(_ context.Context, r run1) (int64, error) { return treeSize(r.repository) },
	}
}

func (b *bench) baseBackupPlain() *tool {
	return &tool{
		name: "pg_basebackup plain", settings: "-Fp -Xnone; restored by cp -a, then sync", env: b.cluster.Env(),
		backup: func(r run1) []string {
			return []string{b.cluster.Bin("pg_basebackup"), "-D", r.repository, "-Fp", "-Xnone", "-cfast"}
		},
		restore: func(r run1) []string {
			return shell(`cp -a -T "$1" "$2" && sync -f "$2"`, r.repository, r.target)
		},
		stored: func(_ context.Context, r run1) (int64, error) { return treeSize(r.repository) },
	}
}

func (b *bench) barman(name, settings string, flags ...string) *tool {
	key := "barman-" + strings.ReplaceAll(settings, " ", "-")
	url := func(r run1) string { return b.s3.URL(r.prefix(key)) }
	return &tool{
		name: name, settings: fmt.Sprintf("--jobs %d, %s; sync after the restore", b.jobs, settings),
		env: append(b.s3.Env(), "AWS_DEFAULT_REGION="+b.s3.Region, "PYTHONWARNINGS=ignore"),
		backup: func(r run1) []string {
			args := append([]string{"barman-cloud-backup"}, flags...)
			return append(args, "--endpoint-url", b.s3.Endpoint, "--host", b.cluster.SocketDir, "--port", strconv.Itoa(b.cluster.Port), "--user", "postgres",
				"--immediate-checkpoint", "--jobs", strconv.Itoa(b.jobs), "--name", "bench", url(r), "main")
		},
		restore: func(r run1) []string {
			return shell(`barman-cloud-restore --endpoint-url "$1" "$2" main bench "$3" && sync -f "$3"`, b.s3.Endpoint, url(r), r.target)
		},
		stored: func(ctx context.Context, r run1) (int64, error) { return b.bucketSize(ctx, r.prefix(key), "/wals/") },
	}
}

// shell makes a command of a script and its arguments.
func shell(script string, args ...string) []string {
	return append([]string{"bash", "-c", "set -euo pipefail; " + script, "bash"}, args...)
}

// bucketSize sums the objects under a prefix, without those that have a part in their names.
func (b *bench) bucketSize(ctx context.Context, prefix, without string) (int64, error) {
	_, host, _ := strings.Cut(b.s3.Endpoint, "://")
	api, err := minio.New(host, &minio.Options{Creds: credentials.NewStaticV4(b.s3.AccessKey, b.s3.SecretKey, ""), Region: b.s3.Region, BucketLookup: minio.BucketLookupPath})
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for object := range api.ListObjects(ctx, b.s3.Bucket, minio.ListObjectsOptions{Prefix: prefix + "/", Recursive: true}) {
		if object.Err != nil {
			return 0, object.Err
		}
		if !strings.Contains(object.Key, without) {
			sum += object.Size
		}
	}
	return sum, nil
}

// toolVersions asks every program that is measured for its version.
func (b *bench) toolVersions(ctx context.Context) ([]string, error) {
	ask := [][]string{{b.pgobj, "version"}, {b.cluster.Bin("postgres"), "--version"}, {"zstd", "--version"}}
	for _, program := range b.peers() {
		ask = append(ask, []string{program, map[bool]string{true: "version", false: "--version"}[program == "pgbackrest"]})
	}
	var versions []string
	for _, args := range ask {
		out, err := testenv.AsPostgres(exec.CommandContext(ctx, args[0], args[1:]...)).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		versions = append(versions, strings.TrimSpace(string(out)))
	}
	return versions, nil
}

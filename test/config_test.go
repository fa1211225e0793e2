package test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestConfigFile: with one file, credentials included, nothing has to be in the environment: neither of the
// archiver, nor of a backup, a drill, a restore, nor of the server that recovers.
func TestConfigFile(t *testing.T) {
	minio := s3server.ForTest(t, s3server.MinIOTLS)
	st := s3Store(t, minio, "minio")
	dir := testenv.Dir(t)
	file := filepath.Join(dir, "the config")
	writeFile(t, file, "# for the server main\n"+strings.Join(append(st.settings, st.credentials...), "\n")+"\n", 0o600)
	bare := store{secret: st.secret}
	s := newSite(t, bare, pgtest.Options{Conf: []string{"archive_command = '" + testenv.Pgobj(t) + ` --config "` + file + `" wal-push %p'`}})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.settings = []string{"PGOBJ_CONFIG=" + file}
	s.backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.archived(t)
	s.settings = nil

	target := filepath.Join(dir, "data")
	s.must(t, "backup-fetch", "--config", file, target)
	auto := string(readFile(t, filepath.Join(target, "postgresql.auto.conf")))
	if want := "restore_command = 'GOTRACEBACK=crash exec " + s.pgobj + " --config ''" + file + `'' wal-fetch "%f" "%p" --new-tablespaces=free --received=latest'`; !strings.Contains(auto, want) || strings.Contains(auto, st.secret) {
		t.Errorf("it lacks %s:\n%s", want, auto)
	}
	c := s.start(t, target)
	if got := steps(t, c); got != "1 2" {
		t.Errorf("the restored server has the steps %s", got)
	}
	plan := s.must(t, "backup-fetch", "--config", file, "--s3-driver=aws", filepath.Join(dir, "other"), "--plan")
	if !strings.Contains(plan.out, "--s3-driver aws wal-fetch") || strings.Contains(plan.out, "--storage") {
		t.Errorf("a flag beside the file: %v", plan)
	}
	s.must(t, "--config="+file, "drill", "--scratch", testenv.Dir(t), "--bindir", s.BinDir)

	writeFile(t, file, string(readFile(t, file))+"PGOBJ_STORE=x\n", 0o644)
	for _, command := range [][]string{{"backup-list"}, {"wal-fetch", "000000010000000000000001", filepath.Join(target, "x")}} {
		o := s.run(t, append([]string{"--config", file}, command...)...)
		want := map[bool]int{true: exitUsage, false: 255}[len(command) == 1]
		if o.code != want || !strings.Contains(o.err, file+", line ") || !strings.Contains(o.err, "PGOBJ_STORE") {
			t.Errorf("%v with an unknown setting: %v, want exit code %d", command, o, want)
		}
	}
	writeFile(t, file, strings.Replace(string(readFile(t, file)), "PGOBJ_STORE=x\n", "", 1), 0o644)
	if o := s.must(t, "--config", file, "backup-list"); !strings.Contains(o.err, "can read the secrets") {
		t.Errorf("a file that everybody can read: %v", o)
	}
}

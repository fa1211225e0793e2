package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestConfigFile: with one file, credentials included, nothing has to be in the environment: neither of the
// archiver, nor of a backup, a drill, a restore, nor of the server that recovers.
func TestConfigFile(t *testing.T) {
	minio := s3server.ForTest(t, s3server.MinIOTLS)
	st := site.S3Store(t, minio, "minio")
	dir := testenv.Dir(t)
	file := filepath.Join(dir, "the config")
	site.WriteFile(t, file, "# for the server main\n"+strings.Join(append(st.Settings, st.Credentials...), "\n")+"\n", 0o600)
	bare := site.Store{Secret: st.Secret}
	s := site.NewSite(t, bare, pgtest.Options{Conf: []string{"archive_command = '" + testenv.Pgobj(t) + ` --config "` + file + `" wal-push %p'`}})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Settings = []string{"PGOBJ_CONFIG=" + file}
	s.Backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Archived(t)
	s.Settings = nil

	target := filepath.Join(dir, "data")
	s.Must(t, "backup-fetch", "--config", file, target)
	auto := string(site.ReadFile(t, filepath.Join(target, "postgresql.auto.conf")))
	if want := "restore_command = 'GOTRACEBACK=crash exec " + s.Pgobj + " --config ''" + file + `'' wal-fetch "%f" "%p" --new-tablespaces=free --received=latest'`; !strings.Contains(auto, want) || strings.Contains(auto, st.Secret) {
		t.Errorf("it lacks %s:\n%s", want, auto)
	}
	c := s.Spawn(t, target)
	if got := site.Steps(t, c); got != "1 2" {
		t.Errorf("the restored server has the steps %s", got)
	}
	plan := s.Must(t, "backup-fetch", "--config", file, "--s3-driver=aws", filepath.Join(dir, "other"), "--plan")
	if !strings.Contains(plan.Out, "--s3-driver aws wal-fetch") || strings.Contains(plan.Out, "--storage") {
		t.Errorf("a flag beside the file: %v", plan)
	}
	s.Must(t, "--config="+file, "drill", "--scratch", testenv.Dir(t), "--bindir", s.BinDir)

	site.WriteFile(t, file, string(site.ReadFile(t, file))+"PGOBJ_STORE=x\n", 0o644)
	for _, command := range [][]string{{"backup-list"}, {"wal-fetch", "000000010000000000000001", filepath.Join(target, "x")}} {
		o := s.Run(t, append([]string{"--config", file}, command...)...)
		want := map[bool]int{true: site.ExitUsage, false: 255}[len(command) == 1]
		if o.Code != want || !strings.Contains(o.Err, file+", line ") || !strings.Contains(o.Err, "PGOBJ_STORE") {
			t.Errorf("%v with an unknown setting: %v, want exit code %d", command, o, want)
		}
	}
	site.WriteFile(t, file, strings.Replace(string(site.ReadFile(t, file)), "PGOBJ_STORE=x\n", "", 1), 0o644)
	if o := s.Must(t, "--config", file, "backup-list"); !strings.Contains(o.Err, "can read the secrets") {
		t.Errorf("a file that everybody can read: %v", o)
	}
}

package restore

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// debian is a cluster as Debian's tools make it: its configuration is below /etc/postgresql.
type debian struct {
	*site.Site
	name, etc, data string
}

func newDebian(t *testing.T) *debian {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("pg_createcluster needs root: run this test as root")
	}
	port, err := testenv.Port()
	site.Must(t, err)
	name := fmt.Sprint("pgobj", port)
	d := &debian{Site: &site.Site{Store: site.DirectoryStore(t), Pgobj: testenv.Pgobj(t)}, name: name, etc: "/etc/postgresql/15/" + name, data: "/var/lib/postgresql/15/" + name}
	t.Cleanup(func() { // the test may have removed parts of it
		_ = exec.Command("pg_dropcluster", "--stop", "15", name).Run()
		for _, dir := range []string{d.etc, d.data} {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if out, err := exec.Command("pg_createcluster", "15", name, "--port", fmt.Sprint(port), "--", "--no-sync", "--auth=trust").CombinedOutput(); err != nil {
		t.Fatalf("pg_createcluster: %v: %s (run test/install)", err, out)
	}
	d.Settings = append(d.Settings, "PGHOST=/var/run/postgresql", fmt.Sprint("PGPORT=", port), "PGUSER=postgres", "PGDATA="+d.data)
	conf, err := os.OpenFile(filepath.Join(d.etc, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	site.Must(t, err)
	_, err = fmt.Fprintf(conf, "archive_mode = on\narchive_command = '%s --storage file://%s wal-push %%p'\nwork_mem = '7MB'\nlisten_addresses = ''\nssl = off\nfsync = off\n", d.Pgobj, d.Directory)
	site.Must(t, err)
	site.Must(t, conf.Close())
	d.Shell(t, "pg_ctlcluster 15 "+name+" start")
	return d
}

// printedStart is the line that backup-fetch prints to start the server.
func printedStart(t testing.TB, out string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^(?:start|then) +(.*)$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no line says how to start the server: %s", out)
	}
	return m[1]
}

// TestDebian: on Debian's layout every command that is printed works as it stands, and the copy is never taken for the original.
func TestDebian(t *testing.T) {
	d := newDebian(t)
	site.Must(t, os.WriteFile(filepath.Join(d.etc, "extra.conf"), []byte("# nothing\n"), 0o604))
	site.Must(t, os.Chmod(filepath.Join(d.etc, "extra.conf"), 0o604))
	d.QueryCopy(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	d.Must(t, "backup-push", "--wal-timeout=1m")
	b := d.BackupJSON(t, d.List(t)[0].Backup)
	if b.ConfigFile != d.etc+"/postgresql.conf" || len(b.ConfigDirs) != 1 || b.ConfigDirs[0].Path != d.etc+"/conf.d" || len(b.ConfigFiles) != 3 {
		t.Errorf("backup.json has config_file %s, directories %v, and %d files", b.ConfigFile, b.ConfigDirs, len(b.ConfigFiles))
	}
	before := modesIn(t, d.etc)
	d.QueryCopy(t, `INSERT INTO steps VALUES (2)`)
	d.Shell(t, "pg_ctlcluster 15 "+d.name+" stop -m immediate")

	// In its place, with the configuration that is there.
	d.Shell(t, "pgobj wal-push --all "+d.data)
	o := d.Must(t, "backup-fetch", d.data, "--delta", "--keep-archiving")
	if got, want := printedStart(t, o.Out), "pg_ctlcluster 15 "+d.name+" start"; got != want {
		t.Errorf("to start it in its place: %s, should be %s", got, want)
	}
	d.Shell(t, printedStart(t, o.Out))
	if got, want := d.Opened(t), "1 2 in "+d.data+" with 7MB"; got != want {
		t.Errorf("in its place: %s, should be %s", got, want)
	}
	if strings.Contains(o.Out, "look at") {
		t.Errorf("it is the original again, with its own configuration: nothing of that deserves a look: %v", o)
	}
	if strings.Contains(o.Out, "max_connections") {
		t.Errorf("its configuration has what the recovery needs: %v", o)
	}
	site.Must(t, os.WriteFile(filepath.Join(d.etc, "conf.d/more.conf"), []byte("max_connections = 217\n"), 0o644))
	d.Shell(t, "pg_ctlcluster 15 "+d.name+" restart")
	d.QueryCopy(t, `INSERT INTO steps VALUES (3)`)
	d.QueryCopy(t, `SELECT pg_switch_wal()`)
	d.Shell(t, "pg_ctlcluster 15 "+d.name+" stop -m fast")

	// A copy, with and without a place for its configuration.
	for _, elsewhere := range []bool{false, true} {
		dir := testenv.Dir(t)
		copied := filepath.Join(dir, "a copy's data")
		args := []string{"backup-fetch", copied}
		if elsewhere {
			args = append(args, "--config-dir", filepath.Join(dir, "a copy's configuration"))
		}
		plan := d.Must(t, append(args, "--plan")...)
		o := d.Must(t, args...)
		if printedStart(t, plan.Out) != printedStart(t, o.Out) || !strings.Contains(o.Out, "external_pid_file") || !strings.Contains(o.Out, "(removed in the copy)") {
			t.Errorf("the plan: %v\nbackup-fetch: %v", plan, o)
		}
		if auto := string(site.ReadFile(t, copied+"/postgresql.auto.conf")); !strings.Contains(auto, "max_connections = '217'") || strings.Contains(auto, "max_worker_processes") {
			t.Errorf("what was raised, and no more, has to be in postgresql.auto.conf: %s", auto)
		}
		d.Shell(t, printedStart(t, o.Out))
		if got, want := d.Opened(t), "1 2 3 in "+copied+" with 7MB"; got != want {
			t.Errorf("the copy: %s, should be %s", got, want)
		}
		if got := d.QueryCopy(t, `SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('external_pid_file', 'hba_file', 'ident_file')`); strings.Contains(got, d.etc) || strings.Contains(got, "/run/") {
			t.Errorf("the copy uses %s", got)
		}
		d.Shell(t, fmt.Sprintf("/usr/lib/postgresql/15/bin/pg_ctl -D %q -m fast stop", copied))
	}

	// The machine is gone.
	for _, dir := range []string{d.etc, d.data} {
		site.Must(t, os.RemoveAll(dir))
	}
	d.drilled(t)
	o = d.Must(t, "backup-fetch", d.data, "--config-dir", d.etc, "--keep-archiving")
	d.Shell(t, printedStart(t, o.Out))
	if got, want := d.Opened(t), "1 2 3 in "+d.data+" with 7MB"; got != want {
		t.Errorf("on another machine: %s, should be %s", got, want)
	}
	if got := d.QueryCopy(t, `SHOW external_pid_file`); got == "" {
		t.Error("in the original's place the configuration is not as it was: external_pid_file is empty")
	}
	for name, mode := range modesIn(t, d.etc) {
		if mode != before[name] {
			t.Errorf("%s has mode %v, was %v", name, mode, before[name])
		}
	}
}

// modesIn are the modes of the configuration that PostgreSQL reads.
func modesIn(t testing.TB, etc string) map[string]fs.FileMode {
	t.Helper()
	modes := map[string]fs.FileMode{}
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf", "conf.d"} {
		st, err := os.Stat(filepath.Join(etc, name))
		site.Must(t, err)
		modes[name] = st.Mode()
	}
	return maps.Clone(modes)
}

// drilled: the drill's server has the original's configuration, although nothing of that is on this host.
func (d *debian) drilled(t testing.TB) {
	t.Helper()
	o := d.Must(t, "drill", "--scratch", testenv.Dir(t), "--json")
	var result struct {
		Steps []struct{ Name, Text string }
	}
	site.Must(t, json.Unmarshal([]byte(o.Out), &result))
	for _, s := range result.Steps {
		if s.Name == "settings" && strings.Contains(s.Text, "cannot be used") {
			t.Errorf("the drill's settings: %s", s.Text)
		}
	}
}

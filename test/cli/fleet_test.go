package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// host runs pgobj with a file system of its own below root, in which the default places of configuration are.
type host struct{ root string }

func newHost(t *testing.T) *host {
	h := &host{testenv.Dir(t)}
	binary, err := os.ReadFile(testenv.Pgobj(t))
	site.Must(t, err)
	h.write(t, "pgobj", string(binary), 0o755)
	for _, file := range []string{"/etc/passwd", "/etc/group", "/dev/null"} {
		text := ""
		if file != "/dev/null" {
			text = string(site.ReadFile(t, file))
		}
		h.write(t, file, text, 0o666)
	}
	h.write(t, "repo/x", "", 0o644)
	site.Must(t, os.MkdirAll(filepath.Join(h.root, "proc", "self"), 0o755))
	site.Must(t, os.Symlink("/pgobj", filepath.Join(h.root, "proc", "self", "exe")))
	return h
}

func (h *host) write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	path = filepath.Join(h.root, path)
	site.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	site.Must(t, os.WriteFile(path, []byte(text), mode))
	site.Must(t, os.Chmod(path, mode))
}

func (h *host) run(t *testing.T, env []string, args ...string) site.Outcome {
	t.Helper()
	cmd := &exec.Cmd{Path: "/pgobj", Args: append([]string{"pgobj"}, args...), Dir: "/", Env: append([]string{"HOME=/home/u"}, env...), SysProcAttr: &syscall.SysProcAttr{Chroot: h.root}}
	if uid := os.Getuid(); uid != 0 { // only root may do that, and who is root in a namespace of users
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	}
	return site.Finish(t, cmd)
}

// from is the value of a setting, and where it comes from.
func (h *host) from(t *testing.T, name string, env []string, args ...string) string {
	t.Helper()
	o := h.run(t, env, append([]string{"config", "--json"}, args...)...)
	var got struct {
		Settings []struct {
			Name, Value, From, File string
			Line                    int
		}
	}
	if err := json.Unmarshal([]byte(o.Out), &got); err != nil {
		t.Fatalf("%v: %v", err, o)
	}
	for _, s := range got.Settings {
		if s.Name == name && s.From == "file" {
			return fmt.Sprintf("%s %s:%d", s.Value, s.File, s.Line)
		}
		if s.Name == name {
			return s.Value + " " + s.From
		}
	}
	return ""
}

// TestWhereSettingsComeFrom: flag, environment, section, and what files say for all, each over the next.
func TestWhereSettingsComeFrom(t *testing.T) {
	h := newHost(t)
	if got := h.from(t, "retry_for", nil); got != "5m default" {
		t.Errorf("without a file: %s", got)
	}
	h.write(t, "etc/pgobj/pgobj.conf", "storage = file:///repo\nretry_for = 1m\n", 0o600)
	all := [][2]string{
		{"", "1m /etc/pgobj/pgobj.conf:2"},
		{"etc/pgobj/conf.d/10.conf", "2m /etc/pgobj/conf.d/10.conf:1"},
		{"home/u/.config/pgobj/pgobj.conf", "3m /home/u/.config/pgobj/pgobj.conf:1"},
		{"etc/pgobj/conf.d/20.conf", "4m /etc/pgobj/conf.d/20.conf:2"},
	}
	for i, level := range all {
		switch i {
		case 0:
		case 3:
			h.write(t, level[0], "[main]\nretry_for = 4m\n", 0o600)
		default:
			h.write(t, level[0], fmt.Sprintf("retry_for = %dm\n", i+1), 0o600)
		}
		if got := h.from(t, "retry_for", nil); got != level[1] {
			t.Errorf("level %d: %s, want %s", i, got, level[1])
		}
	}
	h.write(t, "named.conf", "PGOBJ_RETRY_FOR=9m\n", 0o600)
	for _, c := range []struct{ env, args, want string }{
		{"PGOBJ_RETRY_FOR=5m", "", "5m environment"},
		{"PGOBJ_RETRY_FOR=4m", "", "4m environment"},
		{"PGOBJ_RETRY_FOR=5m", "--retry-for=6m", "6m flag"},
		{"", "--retry-for 6m", "6m flag"},
		{"", "--config=/named.conf", "9m /named.conf:1"},
		{"PGOBJ_CONFIG=/named.conf", "", "9m /named.conf:1"},
		{"PGOBJ_CONFIG=/named.conf", "--config=/etc/pgobj", "4m /etc/pgobj/conf.d/20.conf:2"},
		{"", "--config=none", "5m default"},
		{"PGOBJ_CONFIG=none", "", "5m default"},
	} {
		var env []string
		if c.env != "" {
			env = []string{c.env}
		}
		if got := h.from(t, "retry_for", env, strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.env, c.args, got, c.want)
		}
	}
	h.write(t, "etc/pgobj/conf.d/30.conf", "[b]\nretention = OFTEN\nPGPASSWORD = canary\ndsn = password=canary\n", 0o644)
	for _, c := range []struct {
		args  string
		code  int
		texts []string
	}{
		{"config", 2, []string{"several servers", "b, main"}},
		{"wal-fetch 000000010000000000000001 x", 255, []string{"several servers", "b, main"}},
		{"config --server=b", 2, []string{"/etc/pgobj/conf.d/30.conf, line 2: retention", "can read the secrets"}},
		{"config --server=main", 0, nil},
		{"config --server=man", 2, []string{"no section", "b, main"}},
		{"backup-list --server=man", 2, []string{"no section", "b, main"}},
		{"config --server=b --retry-for=never", 2, []string{"--retry-for"}},
		{"server-list", 0, nil},
		{"version", 0, nil},
		{"backup-lst", 2, []string{"backup-lst"}},
		{"backup-show latest --server=main,b", 2, []string{"for one server"}},
	} {
		o := h.run(t, nil, strings.Fields(c.args)...)
		if o.Code != c.code || strings.Contains(o.Out+o.Err, "canary") {
			t.Errorf("%s: %v", c.args, o)
		}
		for _, text := range c.texts {
			if !strings.Contains(o.Err, text) {
				t.Errorf("%s does not say %s: %v", c.args, text, o)
			}
		}
	}
	h.write(t, "etc/pgobj/conf.d/30.conf", "[b]\nretention = REDUNDANCY 2\nPGPASSWORD = canary\ndsn = password=canary\n", 0o600)
	if o := h.run(t, nil, "config", "--server=all"); o.Code != 0 || strings.Contains(o.Out, "canary") || strings.Count(o.Out, "== ") != 2 {
		t.Errorf("config of all: %v", o)
	}
	h.write(t, "etc/pgobj/conf.d/30.conf", "[b]\nretentoin = REDUNDANCY 2\n", 0o600)
	for args, code := range map[string]int{"config --server=main": 2, "backup-list --server=main": 2, "wal-fetch 000000010000000000000001 x": 255, "version": 0, "backup-list --help": 0} {
		o := h.run(t, nil, strings.Fields(args)...)
		if o.Code != code || code != 0 && (!strings.Contains(o.Err, "/etc/pgobj/conf.d/30.conf, line 2") || !strings.Contains(o.Err, "retention")) {
			t.Errorf("with a typo in a file, %s: %v", args, o)
		}
	}
}

// fleet is two servers that archive, to a storage each or to one, and what is said of a third one that does not run.
type fleet struct {
	site.Site // of the first
	second    *pgtest.Cluster
	conf      string // the user's file
}

func newFleet(t *testing.T, second string) *fleet {
	conf := testenv.Dir(t)
	site.Must(t, os.Mkdir(filepath.Join(conf, "pgobj"), 0o755))
	f := &fleet{conf: filepath.Join(conf, "pgobj", "pgobj.conf")}
	f.Pgobj = testenv.Pgobj(t)
	f.Settings = []string{"XDG_CONFIG_HOME=" + conf}
	start := func() *pgtest.Cluster {
		c := pgtest.Start(t, pgtest.Options{WALSegMB: 1, Env: f.Settings,
			Conf: []string{"archive_mode = on", "archive_command = 'env -u PGOBJ_CONFIG " + f.Pgobj + " wal-push %p'", "wal_level = replica", "max_wal_senders = 4"}})
		return c
	}
	first, other := start(), start()
	f.second = other
	f.Cluster = first
	section := func(name string, c *pgtest.Cluster, more string) string {
		return fmt.Sprintf("[%s]\ndsn = host=%s port=%d user=postgres dbname=postgres\npgdata = %s\n%s\n", name, c.SocketDir, c.Port, c.Data, more)
	}
	site.WriteFile(t, f.conf, "[global]\nstorage = "+directory(t)+"\nretry_for = 10s\nretention = REDUNDANCY 1\nhold = 0s\n"+section("a", first, "labels = env=test, team=x")+
		section("b", other, second)+"[gone]\nactive = no\n", 0o600)
	return f
}

func directory(t *testing.T) string {
	url, _ := strings.CutPrefix(site.DirectoryStore(t).Settings[0], "PGOBJ_STORAGE=")
	return url
}

// run is pgobj as cron runs it: nothing of ours in the environment but where the user's configuration is.
func (f *fleet) run(t *testing.T, dir string, args ...string) site.Outcome {
	t.Helper()
	cmd := exec.Command(f.Pgobj, args...)
	cmd.Env, cmd.Dir = append([]string{"PATH=/usr/bin:/bin"}, f.Settings...), dir
	return site.Finish(t, testenv.AsPostgres(cmd))
}

// each is what --json gives, by the name of the server.
func (f *fleet) each(t *testing.T, code int, want map[string]int, args ...string) map[string]json.RawMessage {
	t.Helper()
	o := f.run(t, "/", append(args, "--json")...)
	var list []struct {
		Server    string
		Exit_code int
		Result    json.RawMessage
	}
	if err := json.Unmarshal([]byte(o.Out), &list); err != nil || o.Code != code {
		t.Fatalf("%v: want exit code %d (%v): %v", args, code, err, o)
	}
	codes, results := map[string]int{}, map[string]json.RawMessage{}
	for _, s := range list {
		codes[s.Server], results[s.Server] = s.Exit_code, s.Result
	}
	if !maps.Equal(codes, want) {
		t.Errorf("%v: %v, want %v: %v", args, codes, want, o)
	}
	return results
}

// TestFleet: servers with a storage of their own each are backed up, listed, verified and thinned out by one command, archive by one
// archive_command, and one that fails does not keep the others.
func TestFleet(t *testing.T) {
	f := newFleet(t, "storage = "+directory(t))
	both := map[string]int{"a": 0, "b": 0}
	for range 2 {
		for _, result := range f.each(t, 0, both, "backup-push", "--server=all", "--label=by=cron") {
			var b site.BackupEntry
			if err := json.Unmarshal(result, &b); err != nil || b.Backup == "" || b.Labels["by"] != "cron" {
				t.Errorf("backup-push: %s (%v)", result, err)
			}
		}
	}
	lists := f.each(t, 0, both, "backup-list", "--server=b,a", "--servers-at-once=2")
	ids := map[string]string{}
	for name, result := range lists {
		var list []site.BackupEntry
		if err := json.Unmarshal(result, &list); err != nil || len(list) != 2 || (list[0].Labels["team"] == "x") != (name == "a") {
			t.Fatalf("%s has %s (%v)", name, result, err)
		}
		ids[list[0].SystemID] = name
	}
	if len(ids) != 2 {
		t.Errorf("the two servers have the system identifiers %v", ids)
	}
	for _, args := range [][]string{{"wal-list"}, {"pitr-windows"}, {"backup-verify"}, {"wal-verify"}, {"delete", "policy", "--confirm"}, {"delete", "garbage"}} {
		f.each(t, 0, both, append(args, "--server=all")...)
	}
	f.each(t, 0, both, "drill", "--server=all", "--scratch="+testenv.Dir(t), "--bindir="+f.BinDir)
	if o := f.run(t, "/", "backup-list", "--server=all"); o.Code != 0 || strings.Count(o.Out, "== a\n") != 1 || strings.Count(o.Out, "== b\n") != 1 || strings.Count(o.Out, "drilled") != 2 || strings.Contains(o.Out, "gone") {
		t.Errorf("the lists of both: %v", o)
	}

	site.Must(t, f.second.Shutdown("fast"))
	f.each(t, 9, map[string]int{"b": 9, "a": 0, "gone": 2}, "backup-push", "--server=b,gone,a")
	site.Must(t, os.RemoveAll(firstPart(t, f)))
	o := f.run(t, "/", "backup-verify", "--server=all")
	if o.Code != 8 || !strings.Contains(o.Err, "\na: ERROR:  ") && !strings.HasPrefix(o.Err, "a: ERROR:  ") || !strings.Contains(o.Out, "== b\n") {
		t.Errorf("a part of one server is lost: %v", o)
	}
	f.each(t, 8, map[string]int{"b": 0, "a": 8, "gone": 6}, "backup-verify", "--server=b,gone,a")
}

// firstPart is the directory of the first server's parts.
func firstPart(t *testing.T, f *fleet) string {
	conf := string(site.ReadFile(t, f.conf))
	_, rest, _ := strings.Cut(conf, "file://")
	dir, _, _ := strings.Cut(rest, "\n")
	return filepath.Join(dir, "a", "parts")
}

// TestFleetServerIsNotGuessed: WAL goes to the archive of the server whose data directory it comes from, or nowhere.
func TestFleetServerIsNotGuessed(t *testing.T) {
	f := newFleet(t, "storage = "+directory(t))
	wal := filepath.Join("pg_wal", f.SwitchWAL(t))
	f.Eventually(t, `SELECT last_archived_wal IS NOT NULL FROM pg_stat_archiver`, "t")
	for _, c := range []struct {
		dir   string
		code  int
		args  []string
		texts []string
	}{
		{f.Data, 0, []string{"wal-push", wal}, nil},
		{f.Data, 0, []string{"wal-push", wal, "--server=a"}, nil},
		{"/", 2, []string{"wal-push", filepath.Join(f.Data, wal)}, []string{"several servers", "a, b, gone"}},
		{f.Data, 2, []string{"wal-push", wal, "--server=gone"}, []string{"not active"}},
		{f.Data, 2, []string{"wal-push", wal, "--server=all"}, []string{"for one server"}},
		{"/", 2, []string{"wal-receive", "--server=gone"}, []string{"not active"}},
		{"/", 2, []string{"backup-push", "--server=gone"}, []string{"not active"}},
		{"/", 2, []string{"backup-push"}, []string{"a, b, gone"}},
	} {
		o := f.run(t, c.dir, c.args...)
		if o.Code != c.code {
			t.Errorf("%v in %s: %v, want exit code %d", c.args, c.dir, o, c.code)
		}
		for _, text := range c.texts {
			if !strings.Contains(o.Err, text) {
				t.Errorf("%v does not say %s: %v", c.args, text, o)
			}
		}
	}
	one := filepath.Join(testenv.Dir(t), "one.conf")
	conf, _, _ := strings.Cut(string(site.ReadFile(t, f.conf)), "[b]")
	site.WriteFile(t, one, conf, 0o600)
	other := f.second.SwitchWAL(t)
	for _, args := range [][]string{{"wal-push", filepath.Join("pg_wal", other)}, {"wal-push", "--all", f.second.Data}} {
		if o := f.run(t, f.second.Data, append(args, "--config="+one)...); o.Code != 2 || !strings.Contains(o.Err, f.second.Data) {
			t.Errorf("%v of another data directory: %v", args, o)
		}
	}
	if o := f.run(t, f.Data, "wal-push", wal, "--config="+one); o.Code != 0 {
		t.Errorf("the only section: %v", o)
	}
}

// TestFleetRestores: restore_command leads to the section's archive: by a file that any process finds, by one that is named, and
// without one that only this user has.
func TestFleetRestores(t *testing.T) {
	f := newFleet(t, "storage = "+directory(t))
	f.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	if o := f.run(t, "/", "backup-push", "--server=a"); o.Code != 0 {
		t.Fatal(o)
	}
	f.Exec(t, `INSERT INTO steps VALUES (2)`)
	f.Archived(t)
	named := filepath.Join(testenv.Dir(t), "named.conf")
	site.WriteFile(t, named, string(site.ReadFile(t, f.conf)), 0o600)
	for _, c := range []struct {
		args []string
		want func(line string) bool
	}{
		{nil, func(line string) bool {
			return strings.Contains(line, "--storage ") && strings.Contains(line, "--server a ") && !strings.Contains(line, "--config")
		}},
		{[]string{"--config=" + named}, func(line string) bool {
			return !strings.Contains(line, "--storage ") && strings.Contains(line, "--server a ") && strings.Contains(line, "--config "+named)
		}},
	} {
		target := filepath.Join(testenv.Dir(t), "data")
		if o := f.run(t, "/", append(c.args, "backup-fetch", "--server=a", target)...); o.Code != 0 {
			t.Fatalf("%v: %v", c.args, o)
		}
		auto := string(site.ReadFile(t, filepath.Join(target, "postgresql.auto.conf")))
		lines := strings.Split(auto, "\n")
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "restore_command") && c.want(line) }) {
			t.Errorf("%v: %s", c.args, auto)
		}
		if got := site.Steps(t, f.Spawn(t, target)); got != "1 2" {
			t.Errorf("%v: the restored server has the steps %s", c.args, got)
		}
	}
	h := newHost(t)
	repo := filepath.Dir(filepath.Dir(firstPart(t, f)))
	site.Must(t, os.RemoveAll(filepath.Join(h.root, "repo")))
	site.Must(t, os.CopyFS(filepath.Join(h.root, "repo"), os.DirFS(repo)))
	h.write(t, "etc/pgobj/pgobj.conf", "storage = file:///repo\n[a]\n", 0o600)
	h.write(t, "tmp/x", "", 0o644)
	o := h.run(t, nil, "backup-fetch", "/tmp/new", "--plan")
	if o.Code != 0 || !strings.Contains(o.Out, "/pgobj --server a wal-fetch") {
		t.Errorf("with a file in its default place: %v", o)
	}
	if o := h.run(t, nil, "--config=none", "--storage=file:///repo", "--server=a", "backup-fetch", "/tmp/new", "--plan"); o.Code != 0 || !strings.Contains(o.Out, "/pgobj --config none --storage file:///repo --server a wal-fetch") {
		t.Errorf("beside a file in its default place: %v", o)
	}
}

// TestFleetInterrupted: a signal ends what runs for each server, and begins no other.
func TestFleetInterrupted(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	site.Must(t, err)
	defer silent.Close()
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	f := &fleet{conf: filepath.Join(testenv.Dir(t), "pgobj.conf")}
	site.WriteFile(t, f.conf, "storage = "+directory(t)+"\ndsn = host=127.0.0.1 user=x dbname=x sslmode=disable port="+port+"\n[a]\n[b]\n[c]\n", 0o600)
	cmd := exec.Command(testenv.Pgobj(t), "--config="+f.conf, "backup-push", "--server=all", "--servers-at-once=2", "--json")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	o := site.Execute(t, testenv.AsPostgres(cmd), func(p *os.Process) {
		for range 2 { // both wait for an answer
			c, err := silent.Accept()
			site.Must(t, err)
			t.Cleanup(func() { c.Close() })
		}
		site.Must(t, p.Signal(syscall.SIGTERM))
	})
	var list []struct{ Exit_code int }
	if err := json.Unmarshal([]byte(o.Out), &list); err != nil || o.Code != 20 || fmt.Sprint(list) != "[{20} {20} {20}]" {
		t.Errorf("%v (%v)", o, err)
	}
}

// TestAllServersOfTheStorage: without a section, all are those in the storage, for who reads only.
func TestAllServersOfTheStorage(t *testing.T) {
	f := newFleet(t, "")
	f.each(t, 0, map[string]int{"a": 0, "b": 0}, "backup-push", "--server=all")
	conf := filepath.Join(testenv.Dir(t), "flat.conf")
	_, rest, _ := strings.Cut(string(site.ReadFile(t, f.conf)), "file://")
	dir, _, _ := strings.Cut(rest, "\n")
	site.WriteFile(t, conf, "PGOBJ_STORAGE=file://"+dir+"\n", 0o600)
	f.each(t, 0, map[string]int{"a": 0, "b": 0}, "backup-list", "--server=all", "--config="+conf)
	f.each(t, 6, map[string]int{"a": 0, "x": 6}, "backup-list", "--server=a,x", "--config="+conf)
	for _, args := range [][]string{{"backup-push"}, {"delete", "garbage"}} {
		if o := f.run(t, "/", append(args, "--server=all", "--config="+conf)...); o.Code != 2 || o.Out != "" {
			t.Errorf("%v: %v", args, o)
		}
	}
}

package cli

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// notRun are lines of code blocks in README and docs that no test runs here, each with the reason. Lines that are run are in TestReadmeCommands.
var notRun = map[string]string{
	"archive_command = 'pgobj wal-push %p'": "a setting: the test's server has it",
	"make demo":                             "test/demo has its own test",
	"make test":                             "it is what runs this",
	"make build && install bin/pgobj /usr/local/bin/":                                "it would replace what is installed on this host",
	"install -d -o postgres -m 700 /backup":                                          "the test's storage is made by testenv",
	"systemctl restart postgresql":                                                   "there is no systemd in the test's environment",
	"pgobj backup-push --server all":                                                 "it needs sections: TestFleet",
	"pgobj config --server main":                                                     "as above",
	"export PGOBJ_PRIMARY_DSN='host=primary user=backup'":                            "an example's host: TestBackupFromStandby and its neighbours set their own",
	"restore            10.4 s  978 files":                                           "output",
	"PostgreSQL host                                    storage (S3 or a directory)": "a picture",
	"apt-get install postgresql-15":                                                  "Debian's layout: TestDebian",
	"pg_dropcluster --stop 15 main":                                                  "as above",
	"install -d -o postgres -g postgres -m 700 /var/lib/postgresql/15/main":          "as above",
	"su postgres -c 'pgobj backup-fetch /var/lib/postgresql/15/main --config-dir /etc/postgresql/15/main --keep-archiving'": "as above",
	"pg_ctlcluster 15 main start":            "as above",
	"[Service]":                              "a file of systemd, from here to WantedBy",
	"User=postgres":                          "as above",
	"EnvironmentFile=/etc/pgobj/environment": "as above",
	"ExecStart=/usr/local/bin/pgobj wal-receive --slot pgobj --create-slot": "as above; the command is run by TestWALReceive and its neighbours",
	"Restart=always":             "as above",
	"RestartSec=5":               "as above",
	"TimeoutStopSec=45":          "as above",
	"[Install]":                  "as above",
	"WantedBy=multi-user.target": "as above",
	"30 Sep                         31 Oct     8 Nov   15 Nov  21 Nov":               "a picture",
	"monthly                        monthly    weekly   daily, and any moment since": "a picture",
	"WAL        ..........|..............................|.......|......|.=====":     "a picture",
	"backups    ..........": "a picture",
	"recover            12.0 s  recovery has reached the end of the WAL: it ended at 0/16000000 on timeline 1, last transaction of 2026-11-21 08:34:17.660976Z": "output",
	"measured  restoring it to the end of the WAL took 25.0 seconds on this host: from the first request until the server accepted connections":                 "output",
}

// readmeLine is a command of the README, as it is run.
type readmeLine struct {
	line    string
	prepare func() // before it
	check   func() // after it; nil: that it ends with 0 is enough
	replace []string
}

// TestReadmeCommands runs the lines of the README's code blocks, as they are printed but for names of places, on a cluster with its configuration in
// the data directory (for Debian's layout see TestDebian). A new line has to be run, or to have its reason in notRun.
func TestReadmeCommands(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"wal_level = replica", "max_wal_senders = 4"}})
	site.Must(t, s.AppendConf("unix_socket_directories = '"+s.SocketDir+"'", fmt.Sprint("port = ", s.Port), "listen_addresses = ''"))
	s.Settings = append(s.Settings, "PATH="+s.BinDir+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	places := testenv.Dir(t)
	for _, name := range []string{"drill", "fetched"} {
		site.Must(t, os.Mkdir(filepath.Join(places, name), 0o700))
	}
	site.Must(t, testenv.ChownPostgres(places))
	site.WriteFile(t, filepath.Join(places, "drill.sql"), "SELECT count(*) FROM steps;\n", 0o644)
	copied, lost, oldest := filepath.Join(places, "copy"), "", ""
	at := ""
	t.Cleanup(func() { // what pg_ctl has started
		for _, dir := range []string{s.Data, copied} {
			_ = site.Finish(t, s.Program(s.Bin("pg_ctl"), "-D", dir, "-m", "immediate", "stop")) // most do not run any more
		}
	})
	down := func() { s.Shell(t, "pg_ctl -D "+s.Data+" -m fast stop") }
	rows := func(want string) func() {
		return func() {
			t.Helper()
			if got := s.Opened(t); !strings.HasPrefix(got, want+" in ") {
				t.Errorf("it has the steps %s, there should be %s", got, want)
			}
		}
	}
	s.Exec(t, `CREATE DATABASE shop`)
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	steps := []readmeLine{
		{line: "pgobj backup-push", check: func() { oldest = s.List(t)[0].Backup }},
		{line: "su postgres -c 'pgobj --storage file:///backup backup-push'", replace: []string{"su postgres -c ", "bash -c ", "'pgobj ", "'" + s.Pgobj + " "}},
		{line: "su postgres -c 'pgobj --storage file:///backup backup-list'", replace: []string{"su postgres -c ", "bash -c ", "'pgobj ", "'" + s.Pgobj + " "}},
		{line: "pgobj backup-list"},
		{line: "pgobj backup-fetch /new/pgdata"},
		{line: "pgobj backup-fetch /srv/copy --target-time '2026-11-21 14:05:00+01'", prepare: func() {
			at = site.Now(t, s.Cluster)
			s.Exec(t, `INSERT INTO steps VALUES (2)`)
			s.Archived(t)
		}},
		{line: "pg_ctl -D /srv/copy -o '-p 5433' start", prepare: func() { s.Stop(t, "fast") }, replace: []string{"5433", fmt.Sprint(s.Port)}},
		{line: "psql -p 5433 -c 'SELECT pg_wal_replay_resume()'", prepare: func() {
			testenv.Eventually(t, site.Generous, "the copy has reached its target", func() bool { return s.QueryCopy(t, `SELECT pg_is_wal_replay_paused()`) == "t" })
		}, replace: []string{"5433", fmt.Sprint(s.Port)}, check: func() {
			rows("1")()
			s.Shell(t, "pg_ctl -D "+copied+" -m fast stop")
			site.Must(t, os.RemoveAll(copied))
		}},
		{line: "pgobj wal-push --all /var/lib/postgresql/15/main", prepare: func() {
			s.Start(t)
			s.Exec(t, `INSERT INTO steps VALUES (3)`)
			s.Kill(t)
		}},
		{line: "pgobj backup-fetch /var/lib/postgresql/15/main --delta --keep-archiving"},
		{line: "pg_ctl -D /var/lib/postgresql/15/main start", check: rows("1 2 3")},
		{line: "pg_ctl -D /var/lib/postgresql/15/main stop -m fast"},
		{line: "pgobj backup-fetch /var/lib/postgresql/15/main --keep-archiving", prepare: func() { site.Must(t, os.RemoveAll(s.Data)) }, check: func() {
			s.Shell(t, "pg_ctl -D "+s.Data+" start") // run above as printed
			rows("1 2 3")()
		}},
		{line: "pgobj backup-push --full"},
		{line: "pgobj backup-push --label job=nightly --label ticket=OPS-17"},
		{line: "30 6 * * 0  postgres  pgobj drill --scratch /srv/drill --sql /etc/pgobj-drill.sql", replace: []string{"30 6 * * 0  postgres  ", ""}},
		{line: "pgobj drill --scratch /srv/drill"},
		{line: "pgobj backup-verify all"},
		{line: "pgobj backup-verify --sample 5%"},
		{line: "pgobj backup-list --all"},
		{line: "pgobj backup-show latest"},
		{line: "pgobj server-list"},
		{line: "pgobj catalog-log --limit 20"},
		{line: "pgobj backup-files latest --target full -0 | tar -C /backup -c --null -T - main/catalog > latest.tar", replace: []string{"> latest.tar", "> " + places + "/latest.tar"}},
		{line: "pgobj wal-receive --dsn 'host=db1,db2 user=streamer' --slot pgobj --create-slot --synchronous",
			replace: []string{"pgobj wal-receive", "timeout -s TERM 5 " + s.Pgobj + " wal-receive", "host=db1,db2 user=streamer", fmt.Sprintf("host=%s port=%d user=postgres", s.SocketDir, s.Port), "--synchronous", "--synchronous || test $? = 124"}},
		{line: "pgobj backup-push --offline /var/lib/postgresql/15/main", prepare: down, check: nil},
		{line: "pgobj wal-list"},
		{line: "pgobj wal-verify"},
		{line: "pgobj pitr-windows"},
		{line: "pgobj wal-fetch --range FROM..TO DIR", replace: []string{"DIR", filepath.Join(places, "fetched")}},
		{line: "pgobj backup-mark ID --pin --until '2027-12-31 00:00:00+01'", replace: []string{"2027", fmt.Sprint(time.Now().Year() + 1)}},
		{line: "pgobj delete policy --retention 'RECOVERY WINDOW OF 4 WEEKS'"},
		{line: "pgobj delete policy --retention 'RECOVERY WINDOW OF 4 WEEKS' --confirm"},
		{line: "pgobj delete retain 7"},
		{line: "pgobj delete before '2026-11-01 00:00:00+01'", replace: []string{"2026-11-01 00:00:00+01", time.Now().UTC().Format("2006-01-02 15:04:05+00")}},
		{line: "pgobj delete target ID", prepare: func() { s.Shell(t, "pgobj backup-mark "+oldest+" --unpin") }},
		{line: "pgobj delete everything main"},
		{line: "pgobj catalog-rebuild"},
		{line: "pgobj catalog-rebuild --confirm"},
		{line: "pgobj wal-verify --acknowledge FROM..TO --reason '…'", prepare: func() {
			objects, err := filepath.Glob(filepath.Join(s.Directory, "main/wal/*/00000001/????????????????????????.zst"))
			site.Must(t, err)
			lost = objects[1]
			site.Must(t, os.Remove(lost))
		}, replace: []string{"FROM..TO", ""}},
	}
	in := strings.NewReplacer("/var/lib/postgresql/15/main", s.Data, "/srv/copy", copied, "/new/pgdata", filepath.Join(places, "new"), "/srv/drill", filepath.Join(places, "drill"),
		"/etc/pgobj-drill.sql", filepath.Join(places, "drill.sql"), "/backup ", s.Directory+" ")
	printed := readmeBlocks(t)
	ran := map[string]bool{}
	for _, x := range steps {
		ran[x.line] = true
		if !slices.Contains(printed, x.line) {
			t.Errorf("README and docs do not have %q any more", x.line)
		}
		if x.prepare != nil {
			x.prepare()
		}
		line := in.Replace(strings.NewReplacer(x.replace...).Replace(x.line))
		line = strings.NewReplacer(" ID", " "+oldest, "2026-11-21 14:05:00+01", at, "file:///backup", "file://"+s.Directory).Replace(line)
		if strings.Contains(line, "acknowledge") {
			name := strings.TrimSuffix(filepath.Base(lost), ".zst")
			line = strings.Replace(line, "--acknowledge ", "--acknowledge "+name+".."+name+" ", 1)
		}
		if strings.Contains(line, "FROM..TO") {
			first := s.List(t)[0]
			line = strings.Replace(line, "FROM..TO", first.FirstWAL+".."+first.LastWAL, 1)
		}
		s.Shell(t, line)
		if x.check != nil {
			x.check()
		}
	}
	for _, line := range printed {
		if !ran[line] && notRun[line] == "" {
			t.Errorf("nothing runs this line of README or docs, and notRun has no reason for it:\n%s", line)
		}
	}
	for line := range notRun {
		if !slices.Contains(printed, line) {
			t.Errorf("notRun has a line that README and docs do not have: %s", line)
		}
	}
}

// readmeBlocks are the lines of the code blocks in README and docs, each once, without their comments.
func readmeBlocks(t testing.TB) (lines []string) {
	t.Helper()
	fenced := false
	comment := regexp.MustCompile(`(^|\s+)# .*$`)
	for line := range strings.Lines(manual(t)) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced // SQL and JSON
		}
		if fenced || !strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "    #") || strings.ContainsAny(line, "┌│└") {
			continue
		}
		line = strings.TrimSpace(comment.ReplaceAllString(strings.TrimRight(line, "\n"), ""))
		if strings.HasPrefix(line, "backups    ...") { // its marks are those of comments
			line = "backups    .........."
		}
		if line != "" && !strings.HasPrefix(line, "#") && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// manual is what users read: README and docs.
func manual(t testing.TB) string {
	t.Helper()
	root, err := testenv.ModuleRoot()
	site.Must(t, err)
	pages, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	site.Must(t, err)
	if len(pages) < 5 {
		t.Fatalf("docs has only %v", pages)
	}
	text := document(t, "README.md")
	for _, page := range pages {
		text += document(t, "docs/"+filepath.Base(page))
	}
	return text
}

func document(t testing.TB, name string) string {
	t.Helper()
	root, err := testenv.ModuleRoot()
	site.Must(t, err)
	return string(site.ReadFile(t, filepath.Join(root, name)))
}

// grammar is what pgobj's own help says that there is: the flags of each command.
var grammar = sync.OnceValues(func() (map[string]map[string]bool, error) {
	pgobj, err := testenv.BuildPgobj()
	if err != nil {
		return nil, err
	}
	help := func(args ...string) (string, error) {
		out, err := exec.Command(pgobj, append(args, "--help")...).Output()
		return string(out), err
	}
	top, err := help()
	if err != nil {
		return nil, err
	}
	commands := map[string]map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+(?:-[a-z]+)*(?: [a-z]+)?)(?: |$)`).FindAllStringSubmatch(top, -1) {
		text, err := help(strings.Fields(m[1])...)
		if err != nil {
			return nil, fmt.Errorf("pgobj %s --help: %w", m[1], err)
		}
		flags := map[string]bool{}
		for _, f := range flagName.FindAllString(text, -1) {
			flags[f] = true
		}
		commands[m[1]] = flags
	}
	return commands, nil
})

var flagName = regexp.MustCompile(`--[a-z][a-z0-9-]*[a-z0-9]`)

// foreignFlags are those of other programs that our texts speak of.
var foreignFlags = map[string]string{"--init": "docker run", "--type": "pgBackRest", "--detail": "WAL-G", "--stop": "pg_dropcluster", "--null": "tar", "--help": "all commands", "--version": "pgobj"}

// TestNamedCommandsExist: every command and every flag that a document, a help, a hint or a message names is there.
func TestNamedCommandsExist(t *testing.T) {
	commands, err := grammar()
	site.Must(t, err)
	if len(commands) < 15 || !commands["backup-fetch"]["--delta"] {
		t.Fatalf("the help is not understood: %v", slices.Sorted(maps.Keys(commands)))
	}
	all := map[string]bool{}
	for _, flags := range commands {
		maps.Copy(all, flags)
	}
	texts := map[string][]string{}
	for _, name := range []string{"catalog/FORMAT.md", "cmd/cli/JSON.md", "CONTRIBUTING.md", "SECURITY.md"} {
		texts[name] = []string{document(t, name)}
	}
	texts["README.md and docs"] = []string{manual(t)}
	literals(t, texts)
	named := regexp.MustCompile(`\bpgobj((?: --(?:config|storage|server)[ =]\S+)*) ([a-z]+(?:-[a-z]+)+|delete(?: [a-z]+)?|drill|version|check)\b([^\n"` + "`" + `;|()]*)`)
	seen := 0
	for where, list := range texts {
		for _, text := range list {
			for _, flag := range flagName.FindAllString(text, -1) {
				if isArgument := strings.HasPrefix(text, "--") && !strings.Contains(text, " "); isArgument {
					continue // of a program that is run
				}
				if !all[flag] && foreignFlags[flag] == "" {
					t.Errorf("%s names the flag %s, which no command has: %.120q", where, flag, text)
				}
			}
			for _, m := range named.FindAllStringSubmatch(text, -1) {
				seen++
				flags, known := commands[m[2]]
				if word, _, _ := strings.Cut(m[2], " "); !known && word == "delete" {
					flags, known = map[string]bool{}, true // delete …: the kinds are named elsewhere
					for name, f := range commands {
						if strings.HasPrefix(name, "delete ") {
							maps.Copy(flags, f)
						}
					}
				}
				if !known {
					t.Errorf("%s names the command pgobj %s, which there is not", where, m[2])
				}
				for _, flag := range flagName.FindAllString(m[3], -1) {
					if known && !flags[flag] && foreignFlags[flag] == "" && strings.HasPrefix(strings.TrimSpace(m[3]), "-") {
						t.Errorf("%s: pgobj %s has no flag %s: %q", where, m[2], flag, m[0])
					}
				}
			}
		}
	}
	if seen < 60 {
		t.Errorf("only %d commands were found", seen)
	}
}

// literals adds the texts in the program's source.
func literals(t testing.TB, texts map[string][]string) {
	t.Helper()
	root, err := testenv.ModuleRoot()
	site.Must(t, err)
	for _, room := range []string{"cmd", "backup", "walstore", "catalog", "retention", "storage"} {
		site.Must(t, filepath.WalkDir(filepath.Join(root, room), func(file string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if text, err := strconv.Unquote(lit.Value); err == nil {
						texts[file] = append(texts[file], text)
					}
				}
				return true
			})
			return nil
		}))
	}
}

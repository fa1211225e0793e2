package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// printedLine is a command line that a help, a plan, a hint or an error prints, as it stands in the golden file of all texts.
type printedLine struct {
	line     string
	prepare  func()
	fill     []string // placeholders and what they stand for
	from     []string // arguments of the pgobj that prints the line: what it prints is run
	fromCode int      // with which it ends
}

// exitRefused: a rule of retention forbids the deletion.
const exitRefused = 15

// onlyNamed are commands that a text names, and does not tell anybody to run like that, each with the reason.
var onlyNamed = map[string]string{
	"pgobj backup-push --offline %s": "of a server that is refused: TestTwoClustersInOnePlace gets it printed, and what it does with PGDATA is run here",
	"pgobj backup-fetch":             "it has restored a directory, or written a file; the commands to run have a directory",
}

// printedLines finds the command lines in the golden file of all texts.
func printedLines(t testing.TB) (lines []string) {
	t.Helper()
	command := regexp.MustCompile(`\bpgobj (?:--help|delete [a-z]+|drill|version|[a-z]+-[a-z]+)(?: (?:--[a-z][a-z-]*(?:=[a-z]+)?|[A-Z]{2,}|%[a-z]|pg_wal/(?:%s|FILE)|all))*`)
	texts := strings.ReplaceAll(document(t, "test/house/testdata/messages.golden"), "%%", "%")
	for _, line := range command.FindAllString(texts, -1) {
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestPrintedCommands runs every command line that the program's own texts print, as printed, on a real server and its archive. A
// text with a command that nothing runs here fails the test.
func TestPrintedCommands(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"wal_level = replica", "max_wal_senders = 4", "wal_keep_size = 64"}})
	site.Must(t, s.AppendConf("unix_socket_directories = '"+s.SocketDir+"'", fmt.Sprint("port = ", s.Port), "listen_addresses = ''"))
	s.Settings = append(s.Settings, "PATH="+s.BinDir+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	places := testenv.Dir(t)
	scratch := filepath.Join(places, "drill")
	site.Must(t, os.Mkdir(scratch, 0o700))
	site.Must(t, testenv.ChownPostgres(places))
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Archived(t)
	planned(t, s, filepath.Join(places, "planned"))
	first := s.List(t)[0]
	wal := []string{"%f", first.FirstWAL, "wal-push %p", "wal-push pg_wal/" + first.LastWAL, "%p", filepath.Join(places, "segment"), "BACKUP", first.Backup, "pg_wal/FILE", "pg_wal/" + first.LastWAL, "PGDATA", s.Data}
	history := filepath.Join(s.Directory, "main/wal", first.SystemID, "00000002/00000002.history.zst")
	steps := []printedLine{
		{line: "pgobj --help"},
		{line: "pgobj backup-fetch --help"},
		{line: "pgobj drill --help"},
		{line: "pgobj backup-list"},
		{line: "pgobj server-list"},
		{line: "pgobj wal-list"},
		{line: "pgobj pitr-windows"},
		{line: "pgobj catalog-rebuild"},
		{line: "pgobj backup-verify all"},
		{line: "pgobj backup-files BACKUP --target=full --url"},
		{line: "pgobj backup-push"},
		{line: "pgobj backup-push --full"},
		{line: "pgobj backup-push --new-incarnation"},
		{line: "pgobj delete garbage --confirm"},
		{line: "pgobj delete policy --retention POLICY", fill: []string{"POLICY", "'REDUNDANCY 3'"}},
		{line: "pgobj backup-mark %s --unpin", prepare: func() { s.Must(t, "backup-mark", first.Backup, "--pin") },
			from: []string{"delete", "everything", "main"}, fromCode: exitRefused},
		{line: "pgobj backup-cat %s %s", from: []string{"backup-cat", "postgresql.conf", first.Backup}, fromCode: site.ExitNotFound},
		{line: "pgobj drill --scratch %s", from: []string{"drill", scratch}, fromCode: site.ExitNotFound},
		{line: "pgobj backup-fetch %s %s", from: []string{"backup-fetch", first.Backup, filepath.Join(places, "swapped")}, fromCode: site.ExitNotFound},
		{line: "pgobj wal-push %p"},
		{line: "pgobj wal-push pg_wal/FILE"},
		{line: "pgobj wal-fetch %f %p"},
		{line: "pgobj wal-fetch %s DIR", prepare: func() { // a note of a setting is lost
			site.Must(t, s.AppendConf("max_connections = 77"))
			s.Stop(t, "fast")
			s.Start(t)
			s.Archived(t)
			notes, err := filepath.Glob(filepath.Join(s.Directory, "main/wal", first.SystemID, "*/*.parameters*"))
			if site.Must(t, err); len(notes) == 0 {
				t.Fatal("the archive has no note of a setting")
			}
			site.Must(t, os.Remove(notes[0]))
		}, fill: []string{"DIR", places}, from: []string{"wal-verify"}, fromCode: site.ExitDamaged},
		{line: "pgobj wal-push DIR", fill: []string{"DIR", places}, from: []string{"wal-verify"}, fromCode: site.ExitDamaged},
		{line: "pgobj wal-receive", fill: []string{"pgobj wal-receive", "timeout -s TERM 5 " + s.Pgobj + " wal-receive || test $? = 124"}},
		{line: "pgobj wal-push --all %s", prepare: func() {
			s.Exec(t, `INSERT INTO steps VALUES (3)`)
			s.Kill(t)
		}, from: []string{"backup-fetch", "--delta", s.Data}, fromCode: site.ExitTarget},
		{line: "pgobj wal-push --all PGDATA"},
		{line: "pgobj backup-push --offline PGDATA", prepare: func() {
			s.Start(t)
			s.Stop(t, "fast")
		}},
		{line: "pgobj wal-push pg_wal/%s", prepare: func() {
			s.Start(t)
			promote(t, s)
			site.Must(t, os.Remove(history))
		}, from: []string{"wal-verify"}, fromCode: site.ExitWAL},
	}
	printed := printedLines(t)
	ran := map[string]bool{}
	for _, x := range steps {
		ran[x.line] = true
		if !slices.Contains(printed, x.line) {
			t.Errorf("no text has %q any more", x.line)
		}
		if x.prepare != nil {
			x.prepare()
		}
		line := strings.NewReplacer(slices.Concat(x.fill, wal)...).Replace(x.line)
		if x.from != nil {
			line = strings.NewReplacer(x.fill...).Replace(printedBy(t, s, x))
		}
		s.Shell(t, "cd "+s.Data+"; "+line)
	}
	if _, err := os.Stat(history); err != nil {
		t.Errorf("the line that brings a history file back has not done so: %v", err)
	}
	for _, line := range printed {
		if !ran[line] && onlyNamed[line] == "" {
			t.Errorf("nothing runs this line of a help, a hint or an error, and onlyNamed has no reason for it:\n%s", line)
		}
	}
	for line := range onlyNamed {
		if !slices.Contains(printed, line) {
			t.Errorf("onlyNamed has a line that no text has: %s", line)
		}
	}
}

// planned runs what the plan of a restore prints, and what the plan of a deletion says to do.
func planned(t *testing.T, s *site.Site, dir string) {
	t.Helper()
	row := func(out, name string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^` + name + ` +(\S.*)$`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no row %q in %s", name, out)
		}
		return m[1]
	}
	plan := s.Must(t, "backup-fetch", dir, "--plan").Out
	s.Shell(t, row(plan, "do it"))
	s.Stop(t, "fast")
	s.Shell(t, row(plan, "then"))
	if got := s.Opened(t); !strings.HasPrefix(got, "1 2 in "+dir) {
		t.Errorf("as the plan says, it has the steps %s", got)
	}
	s.Shell(t, "pg_ctl -D "+dir+" -m fast stop")
	s.Start(t)

	s.Backup(t)
	deletion := []string{"delete", "retain", "1"}
	id := regexp.MustCompile(`--confirm --plan \S+`).FindString(s.Must(t, deletion...).Out)
	s.Must(t, append(deletion, strings.Fields(id)...)...)
	if after := len(s.List(t)); after != 1 {
		t.Errorf("after the deletion that the plan says how to confirm there are %d backups", after)
	}
}

// promote takes the server to timeline 2, as a failover does.
func promote(t *testing.T, s *site.Site) {
	t.Helper()
	s.Stop(t, "fast")
	site.WriteFile(t, filepath.Join(s.Data, "standby.signal"), "", 0o600)
	s.Start(t)
	s.Exec(t, `SELECT pg_promote()`)
	s.Exec(t, `INSERT INTO steps VALUES (4)`)
	s.Archived(t)
}

// printedBy makes a real command print the line, and returns it as printed.
func printedBy(t *testing.T, s *site.Site, x printedLine) string {
	t.Helper()
	o := s.Run(t, x.from...)
	printed := strings.ReplaceAll(regexp.QuoteMeta(x.line), "%s", `\S+`)
	line := regexp.MustCompile(strings.ReplaceAll(printed, "DIR", `DIR/\w+`)).FindString(o.Out + o.Err)
	if o.Code != x.fromCode || line == "" {
		t.Fatalf("pgobj %v should end with %d and print %q: %v", x.from, x.fromCode, x.line, o)
	}
	return line
}

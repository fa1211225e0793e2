package cli

import (
	"os"
	"strings"
	"testing"
)

// TestArgumentsMixedUp: who gives an argument in another's place is told so where that is certain, and only there.
func TestArgumentsMixedUp(t *testing.T) {
	w := newWorld(t)
	w.story()
	t.Chdir(t.TempDir())
	t.Setenv("PGDATA", "")
	t.Setenv("PGHOST", t.TempDir()) // no server answers here
	const segment1 = "000000010000000000000001"
	w.must(os.MkdirAll("pg_wal", 0o700))
	w.must(os.Mkdir("latest", 0o700))
	w.must(os.WriteFile("pg_wal/"+segment1, nil, 0o600))
	const kinds = "after delete: before <backup-or-time>, retain <n>, target <backup>, oldest, garbage, policy, everything <server-name>\n"
	for _, c := range []struct {
		line string
		code string
		says string
	}{
		{"drill /srv/copy", "6", "--scratch: pgobj drill --scratch /srv/copy\n"},
		{"drill ..", "6", "--scratch: pgobj drill --scratch ..\n"},
		{"drill 2027", "6", ""},
		{"backup-fetch LATEST /srv/new", "6", "first: pgobj backup-fetch /srv/new LATEST\n"},
		{"backup-fetch 20261116T05 new", "6", "first: pgobj backup-fetch new 20261116T05\n"},
		{"backup-fetch /srv/new /srv/copy", "6", "the backup second\n"},
		{"backup-fetch new 2027", "6", ""},
		{"backup-fetch 2027 new", "6", ""},
		{"backup-cat postgresql.conf oldest", "6", "first: pgobj backup-cat oldest postgresql.conf\n"},
		{"backup-cat 2027 postgresql.conf", "6", ""},
		{"backup-push 20261116T05", "2", "backup 20261116T050000Z-0002\n"},
		{"backup-push --offline oldest", "2", "backup 20261116T050000Z-0002\n"},
		{"backup-push --offline latest", "1", ""}, // there is a directory of that name
		{"backup-push --offline nightly", "1", ""},
		{"wal-fetch pg_wal/RECOVERYXLOG " + segment1, "255", "restore_command = 'pgobj wal-fetch %f %p'\n"},
		{"wal-fetch " + segment1 + " pg_wal/RECOVERYXLOG", "255", ""},
		{"wal-push " + segment1, "11", "pg_wal/" + segment1 + " exists"},
		{"wal-push 000000010000000000000002", "11", ""},
		{"wal-push pg_xlog/" + segment1, "11", ""},
		{"delete", "2", kinds},
		{"delete latest", "2", kinds},
		{"delete --confirm 20261116T05", "2", kinds},
		{"delete retain latest", "2", `"latest"`},
		{"delete before 2026/11/16", "6", "not a time either"},
		{"delete target 2027", "6", ""},
		{"delete policy redundancy", "2", "--retention, in quotes\n"},
		{"delete policy --redundancy", "2", ""},
		{"delete oldest latest", "2", ""},
		// An argument that is empty, as a variable that is not set makes it.
		{"backup-fetch ''", "2", "<target-dir>: "},
		{"backup-fetch --delta '' latest", "2", "<target-dir>: "},
		{"backup-fetch new ''", "2", "[<backup>]: "},
		{"backup-push ''", "2", "[<pgdata>]: "},
		{"wal-push ''", "2", "<path>: "},
		{"wal-push --all ''", "2", "<path>: "},
		{"wal-fetch '' pg_wal/RECOVERYXLOG", "255", "<name>: "},
		{"wal-fetch " + segment1 + " ''", "255", "[<dest>]: "},
		{"delete target ''", "2", "<backup>: "},
		{"delete everything ''", "2", "<server-name>: "},
	} {
		args := strings.Fields(c.line)
		for i, arg := range args {
			args[i] = strings.TrimPrefix(arg, "''")
		}
		got := w.pgobj(args...)
		if !strings.HasPrefix(got, "ERROR:  ") || !strings.HasSuffix(got, "\nexit code "+c.code+"\n") || !strings.Contains(got, c.says) {
			t.Errorf("%s: want exit code %s and %q:\n%s", c.line, c.code, c.says, got)
		}
		if c.says == "" && (strings.Contains(got, "DETAIL:") || strings.Contains(got, "first: ")) {
			t.Errorf("%s: it claims to know what is wrong:\n%s", c.line, got)
		}
		if testing.Verbose() {
			t.Logf("$ pgobj %s\n%s", c.line, got)
		}
	}
}

package backup

import (
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/catalog"
)

func TestParseSetting(t *testing.T) {
	for line, want := range map[string][2]string{
		"port = 5433":                      {"port", "5433"},
		"port 5433 # why":                  {"port", "5433"},
		"  Port=5433":                      {"port", "5433"},
		"a = 'it''s \\\\ here' # x":        {"a", `it's \ here`},
		"include '/x y.conf'":              {"include", "/x y.conf"},
		"# port = 1":                       {"", ""},
		"":                                 {"", ""},
		"archive_command = 'cp # %p'":      {"archive_command", "cp # %p"},
		"alone":                            {"", ""},
		"ext.setting = 'x'":                {"ext.setting", "x"},
		"unterminated = 'abc":              {"unterminated", "abc"},
		"backslash_at_the_end = 'abc\\":    {"backslash_at_the_end", `abc\`},
		"\ttabbed\t=\t'v'":                 {"tabbed", "v"},
		"empty = ''":                       {"empty", ""},
		"log_directory = '/var/log' # abc": {"log_directory", "/var/log"},
	} {
		if name, value := parseSetting(line); name != want[0] || value != want[1] {
			t.Errorf("%q is %q = %q, want %q = %q", line, name, value, want[0], want[1])
		}
	}
}

func TestCommentOut(t *testing.T) {
	old := "work_mem = '1MB'\nrecovery_target_xid = '5'\n" + block([]string{"x"}, []Setting{{"restore_command", "false"}}) + "Archive_Mode = 'on'\nlast = '1'"
	want := "work_mem = '1MB'\n# before pgobj's restore: recovery_target_xid = '5'\n# before pgobj's restore: Archive_Mode = 'on'\nlast = '1'\n"
	if got := commentOut(old, []Setting{{"archive_mode", "off"}}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// The names and rules of each version.
func TestRecoverySettings(t *testing.T) {
	at := time.Date(2026, 11, 21, 14, 5, 0, 1500, time.FixedZone("", 3600))
	for name, c := range map[string]struct {
		r     Recovery
		major int
		want  string
	}{
		"end, 11":       {Recovery{RestoreCommand: "a 'b' \\"}, 11, `restore_command = 'a ''b'' \\'; recovery_target_timeline = 'latest'`},
		"immediate, 11": {Recovery{TargetImmediate: true, TargetAction: "pause"}, 11, "restore_command = ''; recovery_target = 'immediate'; recovery_target_action = 'pause'"},
		"immediate, 12": {Recovery{TargetImmediate: true}, 12, "restore_command = ''; recovery_target_timeline = 'current'; recovery_target = 'immediate'"},
		"time": {Recovery{TargetTime: at, Exclusive: true, Timeline: "10"}, 18,
			"restore_command = ''; recovery_target_timeline = '10'; recovery_target_time = '2026-11-21 13:05:00.000001+00'; recovery_target_inclusive = 'off'"},
		"standby, 11": {Recovery{Standby: true, PrimaryConnInfo: "host=a"}, 11, "restore_command = ''; standby_mode = 'on'; primary_conninfo = 'host=a'; recovery_target_timeline = 'latest'"},
		"standby, 12": {Recovery{Standby: true, PrimarySlotName: "s"}, 12, "restore_command = ''; primary_slot_name = 's'; recovery_target_timeline = 'latest'"},
		"none":        {Recovery{NoSettings: true}, 12, ""},
	} {
		var lines []string
		for _, s := range c.r.settings(c.major) {
			lines = append(lines, s.String())
		}
		if got := strings.Join(lines, "; "); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

// What the original's configuration says of a recovery does not count in another one.
func TestSettingsOfAnotherRecovery(t *testing.T) {
	b := &catalog.Backup{}
	var conf confScan
	conf.scan(autoConf, "recovery_target_xid = '7'\n", b) // is taken out
	conf.scan("postgresql.conf", "recovery_target_name = 'before'\nrecovery_target_lsn = '0/1'\nrecovery_target_inclusive = off\nrecovery_target_time = ''\n"+
		"recovery_min_apply_delay = 1h\nrecovery_end_command = 'x'\narchive_cleanup_command = 'x'\n", b)
	all := "recovery_target_name = ''; recovery_target_lsn = ''; recovery_target_inclusive = 'on'; recovery_min_apply_delay = '0'; recovery_end_command = ''; archive_cleanup_command = ''; "
	for name, c := range map[string]struct {
		r     Recovery
		major int
		want  string
	}{
		"end":       {Recovery{}, 12, all + "restore_command = ''; recovery_target_timeline = 'latest'"},
		"lsn":       {Recovery{TargetLSN: 1, Exclusive: true}, 18, strings.NewReplacer("recovery_target_lsn = ''; ", "", "recovery_target_inclusive = 'on'; ", "").Replace(all) + "restore_command = ''; recovery_target_timeline = 'latest'; recovery_target_lsn = '0/1'; recovery_target_inclusive = 'off'"},
		"standby":   {Recovery{Standby: true}, 15, "recovery_target_name = ''; recovery_target_lsn = ''; recovery_target_inclusive = 'on'; restore_command = ''; recovery_target_timeline = 'latest'"},
		"11":        {Recovery{}, 11, "restore_command = ''; recovery_target_timeline = 'latest'"},
		"none, own": {Recovery{NoSettings: true}, 15, ""},
	} {
		var lines []string
		for _, s := range settingsFor(c.r, c.major, conf).Recovery {
			lines = append(lines, s.String())
		}
		if got := strings.Join(lines, "; "); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

func TestRecoveryCheck(t *testing.T) {
	for _, r := range []Recovery{
		{TargetXID: 5, TargetLSN: 5}, {TargetImmediate: true, TargetName: "x"}, {Exclusive: true}, {Exclusive: true, TargetName: "x"},
		{Standby: true, TargetXID: 5}, {PrimaryConnInfo: "x"}, {NoSettings: true, TargetXID: 5}, {TargetName: strings.Repeat("x", 64)},
		{TargetName: "a\nb = c"}, {Standby: true, PrimaryConnInfo: "host=a\nport"}, {Timeline: "0x1"}, {Timeline: "0"}, {Timeline: "newest"},
	} {
		if err := r.Check(); err == nil {
			t.Errorf("%+v passes", r)
		}
	}
	for _, r := range []Recovery{{}, {TargetXID: 5, Exclusive: true}, {Timeline: "latest"}, {Standby: true, PrimaryConnInfo: "x"}, {NoSettings: true, KeepArchiving: true}} {
		if err := r.Check(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestDanger(t *testing.T) {
	b := &catalog.Backup{PGDATA: "/no/such/pgdata"}
	for line, dangerous := range map[string]bool{
		"data_directory = '/x'": true, "port = 5432": true, "archive_command = 'x'": true, "ssl_key_file = 'k'": true, "log_directory = '/no/such/pgdata/log'": true,
		"stats_temp_directory = '/tmp'": true, "primary_conninfo = 'host=x'": true, "include_dir = 'conf.d'": true,
		"work_mem = '1MB'": false, "log_directory = 'log'": false, "log_directory = '/no/such/place'": false, "archive_timeout = 60": false,
	} {
		var c confScan
		c.scan("postgresql.conf", "\n"+line+"\n", b)
		if (len(c.dangerous) == 1) != dangerous || dangerous && c.dangerous[0].Line != 2 {
			t.Errorf("%s: %+v", line, c.dangerous)
		}
	}
}

func TestTablespaceMapLines(t *testing.T) {
	text := "16384 /a\n16385 " + escapeMap("/b\nc\\d\re") + "\n"
	lines := mapLines(text)
	if len(lines) != 2 || lines[0] != "16384 /a" || lines[1] != "16385 /b\\\nc\\\\d\\\re" {
		t.Errorf("%q", lines)
	}
}

func TestReasonsOfRecoveriesThatMetNoTarget(t *testing.T) {
	for reason, met := range map[string]bool{"no recovery target specified": false, "before transaction 0": false, "after transaction 10": true, "before LSN 0/0": false,
		"after LSN 0/0A": true, `at restore point ""`: false, `at restore point "x"`: true, "before 2000-01-01 00:00:00+00": false, "before 1999-12-31 19:00:00-05": false,
		"before 2026-01-01 00:00:00+00": true, "reached consistency": true} {
		if metNone(reason) == met {
			t.Errorf("%q: met a target: %v", reason, !met)
		}
	}
}

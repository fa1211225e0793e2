package settings

import (
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/recovery"
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
		if name, value := Parse(line); name != want[0] || value != want[1] {
			t.Errorf("%q is %q = %q, want %q = %q", line, name, value, want[0], want[1])
		}
	}
}

func TestCommentOut(t *testing.T) {
	old := "work_mem = '1MB'\nrecovery_target_xid = '5'\n" + Block([]string{"x"}, []recovery.Setting{{Name: "restore_command", Value: "false"}}) + "Archive_Mode = 'on'\nlast = '1'"
	want := "work_mem = '1MB'\n# before pgobj's restore: recovery_target_xid = '5'\n# before pgobj's restore: Archive_Mode = 'on'\nlast = '1'\n"
	if got := CommentOut(old, []recovery.Setting{{Name: "archive_mode", Value: "off"}}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// The names and rules of each version.
func TestRecoverySettings(t *testing.T) {
	at := time.Date(2026, 11, 21, 14, 5, 0, 1500, time.FixedZone("", 3600))
	for name, c := range map[string]struct {
		r     recovery.Recovery
		major int
		want  string
	}{
		"end, 11":       {recovery.Recovery{RestoreCommand: "a 'b' \\"}, 11, `restore_command = 'a ''b'' \\'; recovery_target_timeline = 'latest'`},
		"immediate, 11": {recovery.Recovery{TargetImmediate: true, TargetAction: "pause"}, 11, "restore_command = ''; recovery_target = 'immediate'; recovery_target_action = 'pause'"},
		"immediate, 12": {recovery.Recovery{TargetImmediate: true}, 12, "restore_command = ''; recovery_target_timeline = 'current'; recovery_target = 'immediate'"},
		"time": {recovery.Recovery{TargetTime: at, Exclusive: true, Timeline: "10"}, 18,
			"restore_command = ''; recovery_target_timeline = '10'; recovery_target_time = '2026-11-21 13:05:00.000001+00'; recovery_target_inclusive = 'off'"},
		"standby, 11": {recovery.Recovery{Standby: true, PrimaryConnInfo: "host=a"}, 11, "restore_command = ''; standby_mode = 'on'; primary_conninfo = 'host=a'; recovery_target_timeline = 'latest'"},
		"standby, 12": {recovery.Recovery{Standby: true, PrimarySlotName: "s"}, 12, "restore_command = ''; primary_slot_name = 's'; recovery_target_timeline = 'latest'"},
		"none":        {recovery.Recovery{NoSettings: true}, 12, ""},
	} {
		var lines []string
		for _, s := range c.r.Settings(c.major) {
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
	var conf ConfScan
	conf.Scan(AutoConf, "recovery_target_xid = '7'\n", b) // is taken out
	conf.Scan("postgresql.conf", "recovery_target_name = 'before'\nrecovery_target_lsn = '0/1'\nrecovery_target_inclusive = off\nrecovery_target_time = ''\n"+
		"recovery_min_apply_delay = 1h\nrecovery_end_command = 'x'\narchive_cleanup_command = 'x'\n", b)
	all := "recovery_target_name = ''; recovery_target_lsn = ''; recovery_target_inclusive = 'on'; recovery_min_apply_delay = '0'; recovery_end_command = ''; archive_cleanup_command = ''; "
	for name, c := range map[string]struct {
		r     recovery.Recovery
		major int
		want  string
	}{
		"end":       {recovery.Recovery{}, 12, all + "restore_command = ''; recovery_target_timeline = 'latest'"},
		"lsn":       {recovery.Recovery{TargetLSN: 1, Exclusive: true}, 18, strings.NewReplacer("recovery_target_lsn = ''; ", "", "recovery_target_inclusive = 'on'; ", "").Replace(all) + "restore_command = ''; recovery_target_timeline = 'latest'; recovery_target_lsn = '0/1'; recovery_target_inclusive = 'off'"},
		"standby":   {recovery.Recovery{Standby: true}, 15, "recovery_target_name = ''; recovery_target_lsn = ''; recovery_target_inclusive = 'on'; restore_command = ''; recovery_target_timeline = 'latest'"},
		"11":        {recovery.Recovery{}, 11, "restore_command = ''; recovery_target_timeline = 'latest'"},
		"none, own": {recovery.Recovery{NoSettings: true}, 15, ""},
	} {
		var lines []string
		for _, s := range SettingsFor(c.r, c.major, conf).Recovery {
			lines = append(lines, s.String())
		}
		if got := strings.Join(lines, "; "); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
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
		var c ConfScan
		c.Scan("postgresql.conf", "\n"+line+"\n", b)
		if (len(c.Dangerous) == 1) != dangerous || dangerous && c.Dangerous[0].Line != 2 {
			t.Errorf("%s: %+v", line, c.Dangerous)
		}
	}
}

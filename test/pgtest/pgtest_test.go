package pgtest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// The oldest, the reference and the newest version: each keeps rows over a clean stop and over a crash.
func TestClusterLifecycle(t *testing.T) {
	for _, o := range []Options{
		{Major: 10},
		{Major: 15, Checksums: true, WALSegMB: 1, TCP: true},
		{Major: 18, Checksums: true, WALSegMB: 64},
	} {
		t.Run(fmt.Sprint(o.Major), func(t *testing.T) {
			o.Conf = []string{"log_min_duration_statement = 0", "application_name = 'first'", "work_mem = '7MB'"}
			c := Start(t, o)
			version := c.SQL(t, "SHOW server_version_num")
			if !strings.HasPrefix(version, fmt.Sprint(o.Major)) {
				t.Errorf("asked for version %d, got %s", o.Major, version)
			}
			for setting, want := range map[string]string{
				"data_checksums":   map[bool]string{true: "on", false: "off"}[o.Checksums],
				"wal_segment_size": fmt.Sprintf("%dMB", cmp.Or(o.WALSegMB, 16)),
				"work_mem":         "7MB",
				"fsync":            "on",
				"listen_addresses": map[bool]string{true: "127.0.0.1"}[o.TCP],
			} {
				if got := c.SQL(t, "SHOW "+setting); got != want {
					t.Errorf("%s is %q, want %q", setting, got, want)
				}
			}

			c.Exec(t, "CREATE TABLE t AS SELECT i, NULL::text AS n FROM generate_series(1, 2) i")
			c.Restart(t)
			c.Exec(t, "INSERT INTO t VALUES ($1, $2), (4, $3)", 3, "x", nil)
			pid := c.PID()
			c.Kill(t)
			if c.Running() || alive(pid) {
				t.Fatal("the server survived Kill")
			}
			c.Start(t)
			if got, want := c.SQL(t, "SELECT * FROM t ORDER BY i"), "1|\n2|\n3|x\n4|"; got != want {
				t.Errorf("rows after a crash: %q, want %q", got, want)
			}
			if !strings.Contains(c.Log(), "CREATE TABLE t") {
				t.Error("Log does not have what the server logged before its restarts")
			}
			c.Stop(t, "immediate")
			if c.Running() {
				t.Error("the server survived Stop")
			}
		})
	}
}

// A directory that is no cluster makes postgres end: Open says so, with the reason, instead of waiting.
func TestOpenReportsAServerThatGivesUp(t *testing.T) {
	dir := testenv.Dir(t)
	c, err := Open(t, dir, 15)
	ended, ok := errors.AsType[*Ended](err)
	if !ok {
		t.Fatalf("Open of an empty directory: %v, want an *Ended", err)
	}
	if !strings.Contains(ended.Log, "postgresql.conf") || !strings.Contains(c.Log(), ended.Log) {
		t.Errorf("the reason is missing from %q", ended.Log)
	}
}

// Archive recovery on a copied directory: Open waits until it is paused at the target, or has ended.
func TestOpenWaitsForRecovery(t *testing.T) {
	for _, major := range []int{10, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			archive := testenv.Dir(t)
			source := Start(t, Options{Major: major, Conf: []string{
				"archive_mode = on", "archive_command = 'cp %p " + archive + "/%f'", "hot_standby = on",
			}})
			source.Stop(t, "fast")
			paused, ended := filepath.Join(testenv.Dir(t), "data"), filepath.Join(testenv.Dir(t), "data")
			for _, to := range []string{paused, ended} {
				if err := copyTree(t.Context(), source.Data, to); err != nil {
					t.Fatal(err)
				}
			}
			source.Start(t)
			source.Exec(t, "CREATE TABLE t (i int)")
			source.Exec(t, "SELECT pg_create_restore_point('here')")
			source.Exec(t, "INSERT INTO t VALUES (1)")
			segment := source.SwitchWAL(t)
			source.Eventually(t, "SELECT last_archived_wal >= '"+segment+"' FROM pg_stat_archiver", "t")

			restore := "restore_command = 'cp " + archive + "/%f %p'\n"
			recovery(t, major, paused, restore+"recovery_target_name = 'here'\nrecovery_target_action = 'pause'\n")
			c, err := Open(t, paused, major)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.SQL(t, "SELECT pg_is_in_recovery(), count(*) FROM t"); got != "t|0" {
				t.Errorf("paused at the target: %q, want in recovery and no row", got)
			}

			recovery(t, major, ended, restore)
			c, err = Open(t, ended, major)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.SQL(t, "SELECT pg_is_in_recovery(), count(*) FROM t"); got != "f|1" {
				t.Errorf("after recovery: %q, want out of recovery and one row", got)
			}
		})
	}
}

// recovery asks for archive recovery in the way of the version.
func recovery(t *testing.T, major int, data, settings string) {
	t.Helper()
	conf, signal := "recovery.conf", ""
	if major >= 12 {
		conf, signal = "postgresql.auto.conf", "recovery.signal"
	}
	if err := os.WriteFile(filepath.Join(data, conf), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	if signal != "" {
		if err := os.WriteFile(filepath.Join(data, signal), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := testenv.ChownPostgres(data); err != nil {
		t.Fatal(err)
	}
}

// Template is documented to give twins, and its absence strangers. Both matter to whoever picks.
func TestTemplateSharesTheSystemIdentifier(t *testing.T) {
	id := func(template bool) string {
		c := Start(t, Options{Template: template})
		return c.SQL(t, "SELECT system_identifier FROM pg_control_system()")
	}
	if a, b := id(true), id(true); a != b {
		t.Errorf("two copies of the template are %s and %s", a, b)
	}
	if a, b := id(false), id(false); a == b {
		t.Errorf("two clusters are both %s", a)
	}
}

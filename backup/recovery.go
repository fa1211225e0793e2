package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// Recovery is what PostgreSQL is told to do on its first start.
type Recovery struct {
	RestoreCommand string    // as PostgreSQL takes it, with %f and %p
	TargetTime     time.Time // zero: to the end of the WAL
	TargetAction   string    // pause, promote or shutdown; empty: PostgreSQL's default, which is pause
}

// settings are the recovery settings. The timeline is named because the default differs: up to PostgreSQL
// 11 recovery stays on the backup's timeline and would miss what came after a failover.
func (r Recovery) settings() [][2]string {
	s := [][2]string{{"restore_command", r.RestoreCommand}, {"recovery_target_timeline", "latest"}}
	if !r.TargetTime.IsZero() {
		// A numeric offset is understood even where the server has no time zone data.
		s = append(s, [2]string{"recovery_target_time", r.TargetTime.UTC().Format("2006-01-02 15:04:05.999999") + "+00"})
		if r.TargetAction != "" {
			s = append(s, [2]string{"recovery_target_action", r.TargetAction})
		}
	}
	return s
}

const (
	autoConf    = "postgresql.auto.conf"
	blockBegin  = "# --- written by pgobj backup-fetch ---"
	blockEnd    = "# --- end of what pgobj wrote ---"
	maxAutoConf = 16 << 20
)

// recoverySettings are those that PostgreSQL 12 and later reads from its configuration and earlier ones
// from recovery.conf. Older ones in postgresql.auto.conf would contradict the new ones: with two targets
// the server does not start.
var recoverySettings = []string{
	"restore_command", "archive_cleanup_command", "recovery_end_command", "primary_conninfo", "primary_slot_name",
	"recovery_target", "recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn", "recovery_target_name",
	"recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "recovery_min_apply_delay",
	"promote_trigger_file", "standby_mode", "trigger_file",
}

// writeRecovery writes what makes PostgreSQL recover when it is started on the target.
func writeRecovery(t *target, major int, r Recovery) error {
	var block strings.Builder
	fmt.Fprintln(&block, blockBegin)
	for _, s := range r.settings() {
		fmt.Fprintf(&block, "%s = '%s'\n", s[0], strings.ReplaceAll(s[1], "'", "''"))
	}
	fmt.Fprintln(&block, blockEnd)
	if major < 12 {
		return t.writeFile("recovery.conf", []byte(block.String()))
	}
	old, err := t.readFile(autoConf)
	if err != nil {
		return err
	}
	if err := t.writeFile(autoConf, []byte(commentOut(old)+block.String())); err != nil {
		return err
	}
	return t.writeFile("recovery.signal", nil)
}

// commentOut turns the recovery settings in a configuration file into comments, and drops what an
// earlier restore wrote.
func commentOut(conf string) string {
	var out strings.Builder
	ours := false
	for line := range strings.Lines(conf) {
		switch text := strings.TrimSpace(line); {
		case text == blockBegin:
			ours = true
			continue
		case text == blockEnd:
			ours = false
			continue
		case ours:
			continue
		case isRecoverySetting(text):
			out.WriteString("# before pgobj's restore: ")
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	return out.String()
}

func isRecoverySetting(line string) bool {
	name := line
	if i := strings.IndexAny(line, "= \t"); i >= 0 {
		name = line[:i]
	}
	for _, s := range recoverySettings {
		if strings.EqualFold(name, s) {
			return true
		}
	}
	return false
}

// readFile reads a small file of the data directory; one that is not there is empty.
func (t *target) readFile(name string) (string, error) {
	f, err := t.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAutoConf))
	return string(data), err
}

// relocateMap rewrites tablespace_map where tablespaces went elsewhere: recovery makes the links in
// pg_tblspc anew from it, and would lead back to the original's.
func (t *target) relocateMap() error {
	old, err := t.readFile("tablespace_map")
	if err != nil || old == "" {
		return err
	}
	var out strings.Builder
	for line := range strings.Lines(old) {
		oid, _, ok := strings.Cut(line, " ")
		s := t.spaces[oid]
		if !ok || s == nil {
			return fmt.Errorf("tablespace_map speaks of tablespace %q, which the backup does not list", oid)
		}
		fmt.Fprintf(&out, "%s %s\n", oid, escapeMap(s.location))
	}
	if out.String() == old {
		return nil
	}
	return t.writeFile("tablespace_map", []byte(out.String()))
}

// escapeMap escapes a path as read_tablespace_map reads it (xlogrecovery.c).
func escapeMap(p string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", "\\\n", "\r", "\\\r").Replace(p)
}

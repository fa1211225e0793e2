package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/settings"
)

const (
	autoConf    = "postgresql.auto.conf"
	blockBegin  = "# --- written by pgobj backup-fetch ---"
	blockEnd    = "# --- end of what pgobj wrote ---"
	maxAutoConf = 16 << 20

	synchronous = "synchronous_standby_names"
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

// steering are the settings of them that decide where a recovery ends, how fast it goes and what it runs, with the value
// under which they do nothing.
var steering = []Setting{
	{"recovery_target", ""}, {"recovery_target_name", ""}, {"recovery_target_time", ""}, {"recovery_target_xid", ""}, {"recovery_target_lsn", ""}, {"recovery_target_inclusive", "on"},
	{"recovery_min_apply_delay", "0"}, {"recovery_end_command", ""}, {"archive_cleanup_command", ""},
}

// isSteering says whether a recovery of this kind must not take over a setting. A standby goes on as the one that was
// backed up: late, and with its commands; but it has no target.
func isSteering(r Recovery, name string) bool {
	return slices.ContainsFunc(steering, func(s Setting) bool { return s.Name == name }) && (!r.Standby || strings.HasPrefix(name, "recovery_target"))
}

// neutral are the settings that undo what left says. They come before the recovery's own: PostgreSQL reads a target that is empty
// behind another one as a second target.
func neutral(r Recovery, left []ConfLine, own []Setting) (s []Setting) {
	for _, n := range steering {
		named := func(l ConfLine) bool { return l.Name == n.Name }
		if slices.ContainsFunc(left, named) && isSteering(r, n.Name) && !slices.ContainsFunc(own, func(o Setting) bool { return o.Name == n.Name }) {
			s = append(s, n)
		}
	}
	return s
}

// written is what a restore writes for PostgreSQL to read.
type written struct {
	Signal   string    // name of the empty file that starts recovery; none up to 11
	File     string    // with the recovery settings
	Recovery []Setting // in File
	Auto     []Setting // in postgresql.auto.conf, beside those
	Comments []string  // before them
}

// settingsFor puts together what a restore writes. conf is what the configuration in the backup says.
func settingsFor(r Recovery, major int, conf confScan) written {
	w := written{File: autoConf, Recovery: r.settings(major)}
	switch {
	case r.NoSettings:
		w.File = ""
	case major < 12:
		w.File = "recovery.conf"
	case r.Standby:
		w.Signal = "standby.signal"
	default:
		w.Signal = "recovery.signal"
	}
	if w.Signal != "" {
		w.Recovery = append(neutral(r, conf.steering, w.Recovery), w.Recovery...)
	}
	if r.KeepArchiving || r.Standby { // before its promotion a standby archives nothing, and then it is the server
		return w
	}
	// Subscriptions may be newer than the backup: the WAL brings them, so what it knows of them does not matter.
	w.Comments = []string{"Archiving is off, so that this copy cannot write to the original's archive, and subscriptions do not run, so that",
		"it cannot take changes away from the original's replication slots. To have both again, as the original's successor:",
		"ALTER SYSTEM RESET archive_mode; ALTER SYSTEM RESET max_logical_replication_workers; and restart the server."}
	w.Auto = []Setting{{"archive_mode", "off"}, {"max_logical_replication_workers", "0"}}
	if len(conf.waiting) > 0 {
		w.Comments = append(w.Comments, "Commits wait for no standby, as they would for ever. When this server has one, set synchronous_standby_names as it",
			"was (ALTER SYSTEM SET), and SELECT pg_reload_conf().")
		w.Auto = append(w.Auto, Setting{synchronous, ""})
	}
	before := slices.Concat(conf.archiving, conf.waiting)
	if len(before) > 0 {
		w.Comments = append(w.Comments, "What was set before:")
	}
	for _, l := range before {
		w.Comments = append(w.Comments, fmt.Sprintf("  %s (%s, line %d)", l.Text, l.File, l.Line))
	}
	return w
}

// block is the text of settings, marked so that the next restore knows them again.
func block(comments []string, settings []Setting) string {
	var b strings.Builder
	fmt.Fprintln(&b, blockBegin)
	for _, c := range comments {
		fmt.Fprintf(&b, "# %s\n", c)
	}
	for _, s := range settings {
		fmt.Fprintln(&b, s)
	}
	fmt.Fprintln(&b, blockEnd)
	return b.String()
}

// writeSettings writes what makes PostgreSQL recover, and keeps it from archiving, when it is started on the
// target.
func writeSettings(t *target, w written) error {
	auto := w.Auto
	switch w.File {
	case autoConf:
		auto = append(w.Recovery, w.Auto...)
	case "":
	default:
		if err := t.writeFile(w.File, []byte(block(nil, w.Recovery))); err != nil {
			return err
		}
	}
	old, err := t.readFile(autoConf)
	if err != nil {
		return err
	}
	text := commentOut(old, auto)
	if len(auto) > 0 {
		text += block(w.Comments, auto)
	}
	if text != old {
		if err := t.writeFile(autoConf, []byte(text)); err != nil {
			return err
		}
	}
	if w.Signal == "" {
		return nil
	}
	return t.writeFile(w.Signal, nil)
}

// commentOut turns the recovery settings in a configuration file into comments, and those that are set anew, and
// drops what an earlier restore wrote.
func commentOut(conf string, anew []Setting) string {
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
		case isOneOf(text, anew):
			out.WriteString("# before pgobj's restore: ")
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	return out.String()
}

func isOneOf(line string, anew []Setting) bool {
	name, _ := parseSetting(line)
	for _, s := range recoverySettings {
		if name == s {
			return true
		}
	}
	for _, s := range anew {
		if name == s.Name {
			return true
		}
	}
	return false
}

func parseSetting(line string) (name, value string) { return settings.Parse(line) }

// readFile reads a small file of the data directory; one that is not there is empty.
func (t *target) readFile(name string) (string, error) {
	root, at := t.place(name)
	f, err := root.Open(at)
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
	for _, line := range mapLines(old) {
		oid, _, ok := strings.Cut(line, " ")
		m := t.mount("pg_tblspc/" + oid)
		if !ok || m == nil {
			return fmt.Errorf("%w: tablespace_map speaks of tablespace %q, which the backup does not list", manifest.ErrDamaged, oid)
		}
		fmt.Fprintf(&out, "%s %s\n", oid, escapeMap(m.location))
	}
	if out.String() == old {
		return nil
	}
	return t.writeFile("tablespace_map", []byte(out.String()))
}

// mapLines splits a tablespace_map where a line break is not escaped.
func mapLines(text string) (lines []string) {
	var line strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\n' {
			lines = append(lines, line.String())
			line.Reset()
			continue
		}
		line.WriteByte(text[i])
		if text[i] == '\\' && i+1 < len(text) {
			i++
			line.WriteByte(text[i])
		}
	}
	if line.Len() > 0 {
		lines = append(lines, line.String())
	}
	return lines
}

// escapeMap escapes a path as read_tablespace_map reads it (xlogrecovery.c).
func escapeMap(p string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", "\\\n", "\r", "\\\r").Replace(p)
}

package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/recovery"
)

const (
	AutoConf    = "postgresql.auto.conf"
	blockBegin  = "# --- written by pgobj backup-fetch ---"
	blockEnd    = "# --- end of what pgobj wrote ---"
	Synchronous = "synchronous_standby_names"
)

// isSteering says whether a recovery of this kind must not take over a setting. A standby goes on as the one that was
// backed up: late, and with its commands; but it has no target.
func isSteering(r recovery.Recovery, name string) bool {
	return slices.ContainsFunc(recovery.Steering, func(s recovery.Setting) bool { return s.Name == name }) && (!r.Standby || strings.HasPrefix(name, "recovery_target"))
}

// neutral are the settings that undo what left says. They come before the recovery's own: PostgreSQL reads a target that is empty
// after another one as a second target.
func neutral(r recovery.Recovery, left []ConfLine, own []recovery.Setting) (s []recovery.Setting) {
	for _, n := range recovery.Steering {
		named := func(l ConfLine) bool { return l.Name == n.Name }
		if slices.ContainsFunc(left, named) && isSteering(r, n.Name) && !slices.ContainsFunc(own, func(o recovery.Setting) bool { return o.Name == n.Name }) {
			s = append(s, n)
		}
	}
	return s
}

// Written is what a restore writes for PostgreSQL to read.
type Written struct {
	Signal   string             // name of the empty file that starts recovery; none up to 11
	File     string             // with the recovery settings
	Recovery []recovery.Setting // in File
	Auto     []recovery.Setting // in postgresql.auto.conf, beside those
	Comments []string           // before them
}

// InAuto are all that go to postgresql.auto.conf.
func (w Written) InAuto() []recovery.Setting {
	if w.File == AutoConf {
		return slices.Concat(w.Recovery, w.Auto)
	}
	return w.Auto
}

// Own is the text of File where that is a file of its own; empty: it is not.
func (w Written) Own() string {
	if w.File == "" || w.File == AutoConf {
		return ""
	}
	return Block(nil, w.Recovery)
}

// SettingsFor puts together what a restore writes. conf is what the configuration in the backup says.
func SettingsFor(r recovery.Recovery, major int, conf ConfScan) Written {
	w := Written{File: AutoConf, Recovery: r.Settings(major)}
	switch {
	case r.NoSettings:
		w.File = ""
	case major < 12:
		w.File = datadir.RecoveryConf
	case r.Standby:
		w.Signal = datadir.StandbySignal
	default:
		w.Signal = datadir.RecoverySignal
	}
	if w.Signal != "" {
		w.Recovery = append(neutral(r, conf.steering, w.Recovery), w.Recovery...)
	}
	if r.KeepArchiving || r.Standby { // before its promotion a standby archives nothing, and then it is the server
		return w
	}
	// Subscriptions may be newer than the backup: the WAL brings them, so what it knows of them does not matter.
	w.Comments = []string{"Archiving is off, so that this copy cannot write to the original's archive. Subscriptions do not run, so that",
		"it cannot take changes away from the original's replication slots. To enable both again, if this server replaces the original:",
		"ALTER SYSTEM RESET archive_mode; ALTER SYSTEM RESET max_logical_replication_workers; and restart the server."}
	w.Auto = []recovery.Setting{{Name: "archive_mode", Value: "off"}, {Name: "max_logical_replication_workers", Value: "0"}}
	if len(conf.waiting) > 0 {
		w.Comments = append(w.Comments, "Commits wait for no standby, because they would wait forever. When this server has one, set synchronous_standby_names as it",
			"was (ALTER SYSTEM SET), and SELECT pg_reload_conf().")
		w.Auto = append(w.Auto, recovery.Setting{Name: Synchronous, Value: ""})
	}
	before := slices.Concat(conf.Archiving, conf.waiting)
	if len(before) > 0 {
		w.Comments = append(w.Comments, "What was set before:")
	}
	for _, l := range before {
		w.Comments = append(w.Comments, fmt.Sprintf("  %s (%s, line %d)", l.Text, l.File, l.Line))
	}
	return w
}

// Block is the text of settings, marked so that the next restore knows them again.
func Block(comments []string, settings []recovery.Setting) string {
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

// CommentOut turns the recovery settings in a configuration file into comments, and those that are set again, and
// drops what an earlier restore wrote, but for the settings that recovery needs: the server has run with them since.
func CommentOut(conf string, again []recovery.Setting) string {
	var out strings.Builder
	ours := false
	for line := range strings.Lines(conf) {
		text := strings.TrimSpace(line)
		name, _ := Parse(text)
		_, needed := parameterDefaults[name]
		switch {
		case text == blockBegin:
			ours = true
			continue
		case text == blockEnd:
			ours = false
			continue
		case ours && !needed:
			continue
		case IsOneOf(text, again):
			out.WriteString("# before pgobj's restore: ")
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	return out.String()
}

func IsOneOf(line string, again []recovery.Setting) bool {
	name, _ := Parse(line)
	return slices.Contains(recovery.RecoverySettings, name) || slices.ContainsFunc(again, func(s recovery.Setting) bool { return s.Name == name })
}

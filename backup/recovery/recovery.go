// Package recovery finds what leads to a recovery target: the backup, the path along the timelines, the WAL and its
// gaps. It refuses to read or write a data directory.
package recovery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Recovery is what PostgreSQL is told to do on its first start: how far to recover, and what to be then. At
// most one target may be set; without any it recovers to the end of the WAL.
type Recovery struct {
	RestoreCommand string // as PostgreSQL takes it, with %f and %p
	OwnCommand     bool   // RestoreCommand is pgobj's own, to which Plan.command adds flags
	NoTablespaces  bool   // with OwnCommand: recovery stops before it makes a tablespace that the backup does not have

	TargetTime      time.Time
	TargetXID       uint64
	TargetLSN       segment.LSN
	TargetName      string // of a restore point
	TargetImmediate bool   // as soon as the backup is consistent
	Exclusive       bool   // stop before the target (time, xid, LSN) instead of after it
	Timeline        string // a decimal number, current or latest; empty: latest, and current with TargetImmediate
	TargetAction    string // at a target: pause, promote or shutdown; empty: PostgreSQL's default, which is pause

	Standby         bool // follow the primary for ever
	PrimaryConnInfo string
	PrimarySlotName string

	NoSettings    bool // write no recovery settings and no signal file
	KeepArchiving bool // leave archive_mode as it is
}

// Check refuses settings that contradict each other or that PostgreSQL would not understand.
func (r Recovery) Check() error {
	var flags []string
	for _, t := range r.targets() {
		flags = append(flags, t.flag)
	}
	timed := !r.TargetTime.IsZero() || r.TargetXID != 0 || r.TargetLSN != 0
	switch {
	case len(flags) > 1:
		return fmt.Errorf("%s: give only one target", strings.Join(flags, " and "))
	case r.Standby && len(flags) > 0:
		return fmt.Errorf("a standby follows its primary and has no target: remove --standby or %s", flags[0])
	case r.Exclusive && !timed:
		return fmt.Errorf("--exclusive needs --target-time, --target-xid or --target-lsn")
	case !r.Standby && (r.PrimaryConnInfo != "" || r.PrimarySlotName != ""):
		return fmt.Errorf("--primary-conninfo and --primary-slot-name need --standby")
	case r.NoSettings && (len(flags) > 0 || r.Standby || r.Timeline != ""):
		return fmt.Errorf("--no-recovery-settings writes no target, no timeline and no standby settings: remove those options")
	case len(r.TargetName) >= 64: // MAXFNAMELEN
		return fmt.Errorf("the restore point's name has %d bytes, PostgreSQL allows 63", len(r.TargetName))
	}
	for _, s := range []string{r.RestoreCommand, r.TargetName, r.PrimaryConnInfo, r.PrimarySlotName} {
		if strings.ContainsAny(s, "\n\r\x00") {
			return fmt.Errorf("%q has a line break, which a setting cannot have", s)
		}
	}
	if r.Timeline != "" && r.Timeline != "current" && r.Timeline != "latest" {
		if n, err := strconv.ParseUint(r.Timeline, 10, 32); err != nil || n == 0 {
			return fmt.Errorf("--target-timeline %q: give its number in decimal, current or latest", r.Timeline)
		}
	}
	return nil
}

// target is one that is set: its flag, its setting, and in words where recovery ends.
type target struct {
	set  bool
	flag string
	Setting
	goal string
}

// targets are those that are set.
func (r Recovery) targets() []target {
	return slices.DeleteFunc([]target{
		// A numeric offset is understood even where the server has no time zone data.
		{!r.TargetTime.IsZero(), "--target-time", Setting{"recovery_target_time", r.TargetTime.UTC().Format("2006-01-02 15:04:05.999999") + "+00"}, backup.Stamp(r.TargetTime)},
		{r.TargetXID != 0, "--target-xid", Setting{"recovery_target_xid", strconv.FormatUint(r.TargetXID, 10)}, fmt.Sprintf("transaction %d", r.TargetXID)},
		{r.TargetLSN != 0, "--target-lsn", Setting{"recovery_target_lsn", r.TargetLSN.String()}, r.TargetLSN.String()},
		{r.TargetName != "", "--target-name", Setting{"recovery_target_name", r.TargetName}, fmt.Sprintf("restore point %q", r.TargetName)},
		{r.TargetImmediate, "--target immediate", Setting{"recovery_target", "immediate"}, "the end of the backup"},
	}, func(t target) bool { return !t.set })
}

func (r Recovery) ToTheEnd() bool { return len(r.targets()) == 0 }

// Goal says in words where recovery ends.
func (r Recovery) Goal() string {
	before := map[bool]string{true: "just before ", false: ""}[r.Exclusive]
	for _, t := range r.targets() {
		return before + t.goal
	}
	return "the end of the WAL"
}

// Setting is one line of the configuration that a restore writes.
type Setting struct{ Name, Value string }

// String is the line, as PostgreSQL reads it.
func (s Setting) String() string {
	return fmt.Sprintf("%s = '%s'", s.Name, strings.ReplaceAll(strings.ReplaceAll(s.Value, `\`, `\\`), "'", "''"))
}

// Settings are the recovery settings for a major version.
func (r Recovery) Settings(major int) []Setting {
	if r.NoSettings {
		return nil
	}
	s := []Setting{{"restore_command", r.RestoreCommand}}
	add := func(name, value string) {
		if value != "" {
			s = append(s, Setting{name, value})
		}
	}
	if r.Standby {
		if major < 12 {
			add("standby_mode", "on")
		}
		add("primary_conninfo", r.PrimaryConnInfo)
		add("primary_slot_name", r.PrimarySlotName)
	}
	add("recovery_target_timeline", r.TimelineSetting(major))
	for _, t := range r.targets() {
		add(t.Name, t.Value)
	}
	if r.Exclusive {
		add("recovery_target_inclusive", "off")
	}
	if !r.ToTheEnd() {
		add("recovery_target_action", r.TargetAction)
	}
	return s
}

// TimelineSetting names the timeline always, because the default differs: up to PostgreSQL 11 recovery stays
// on the backup's timeline, and would miss what came after a failover. There "current" has no name; it is
// what happens without the setting.
func (r Recovery) TimelineSetting(major int) string {
	t := r.Timeline
	switch {
	case t == "" && r.TargetImmediate:
		t = "current" // a newer timeline in the archive would make the server refuse
	case t == "":
		t = "latest"
	}
	if t == "current" && major < 12 {
		return ""
	}
	return t
}

// RecoverySettings are those that PostgreSQL 12 and later reads from its configuration and earlier ones
// from recovery.conf. Older ones in postgresql.auto.conf would contradict the new ones: with two targets
// the server does not start.
var RecoverySettings = []string{
	"restore_command", "archive_cleanup_command", "recovery_end_command", "primary_conninfo", "primary_slot_name",
	"recovery_target", "recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn", "recovery_target_name",
	"recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "recovery_min_apply_delay",
	"promote_trigger_file", "standby_mode", "trigger_file",
}

// Steering are the settings of them that decide where a recovery ends, how fast it goes and what it runs, with the value
// under which they do nothing.
var Steering = []Setting{
	{"recovery_target", ""}, {"recovery_target_name", ""}, {"recovery_target_time", ""}, {"recovery_target_xid", ""}, {"recovery_target_lsn", ""}, {"recovery_target_inclusive", "on"},
	{"recovery_min_apply_delay", "0"}, {"recovery_end_command", ""}, {"archive_cleanup_command", ""},
}

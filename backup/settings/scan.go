package settings

import (
	"path/filepath"
	"strings"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/catalog"
)

// ConfLine is a line of a configuration file in the backup.
type ConfLine struct {
	File string // in the data directory, or absolute for one from outside
	Line int
	Name string
	Text string // as it stands there, without comment and blanks around
	Why  string // it deserves a look
}

// Steers says whether the setting decides where a recovery goes, or runs a command in it.
func (l ConfLine) Steers() bool {
	return isSteering(recovery.Recovery{}, l.Name) || l.Name == "restore_command"
}

// ConfScan is what the configuration in a backup says that matters to a copy.
type ConfScan struct {
	Archiving []ConfLine // archive_mode, archive_command, archive_library
	waiting   []ConfLine // synchronous_standby_names
	steering  []ConfLine // what would steer a recovery, in other files than postgresql.auto.conf, where it is taken out
	Dangerous []ConfLine
	Blind     *ConfLine         // hot_standby = off
	Own       map[string]string // the texts of those in the data directory

	parameters []ConfLine // that recovery may need
}

// danger says why a setting that served the original may be wrong for a copy, or do harm to the original.
func danger(name, value string, b *catalog.Backup) string {
	switch name {
	case "data_directory":
		return "it sets which data directory the server opens, and overrides -D"
	case "hba_file", "ident_file", "include", "include_dir", "include_if_exists":
		return "it points to another file"
	case "stats_temp_directory":
		if filepath.IsAbs(value) {
			return "the original may use the same one"
		}
	case "external_pid_file", "unix_socket_directories", "unix_socket_directory":
		return "the original may use the same one"
	case "listen_addresses", "port":
		return "two servers on a host cannot use the same one, and clients may connect to the copy"
	case "archive_command", "archive_library", "archive_mode":
		return "a copy must not archive to where the original does"
	case "archive_cleanup_command", "recovery_end_command", "restore_command":
		return "it runs a command during recovery"
	case "recovery_min_apply_delay":
		return "recovery waits until that time"
	case Synchronous:
		if value == "" {
			return ""
		}
		return "commits wait until such a standby, or wal-receive --synchronous, is connected to it"
	case "primary_conninfo":
		return "it points to the server that the original followed"
	}
	switch {
	case strings.HasPrefix(name, "recovery_target") && name != "recovery_target_action" && value != "":
		return "it is the target of another recovery"
	case strings.HasPrefix(name, "ssl_"):
		return "it belongs to the original's host"
	case filepath.IsAbs(value) && b.PGDATA != "" && datadir.Within(value, b.PGDATA):
		return "it points into the original's data directory"
	case filepath.IsAbs(value) && datadir.Exists(value):
		return "the path also exists on this host"
	}
	return ""
}

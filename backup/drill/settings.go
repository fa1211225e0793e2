package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Override is a setting that the drill's server does not take from the original's configuration.
type Override struct {
	Name string `json:"name"`
	Was  string `json:"was"`
	Now  string `json:"now"`
}

// setting is what the drill's server is told, in the versions that have it.
type setting struct {
	name, value string
	first, last int // major versions; 0: from the beginning, or to the end
}

// settings are stronger than any configuration file, as they stand on the server's command line.
func (d *drill) settings() []setting {
	return []setting{
		// It can be reached by its own user through a socket in the drill's directory, and by nobody else.
		{name: "listen_addresses"}, {name: "port", value: "5432"}, {name: "ssl", value: "off"}, {name: "bonjour", value: "off"},
		{name: "unix_socket_directories", value: filepath.Join(d.Directory, "socket")}, {name: "unix_socket_permissions", value: "0700"}, {name: "unix_socket_group"},
		{name: "hba_file", value: filepath.Join(d.Directory, "hba")}, {name: "ident_file", value: filepath.Join(d.Directory, "ident")},
		// It reaches nobody: no archive but for reading, no primary, no publisher.
		{name: "archive_mode", value: "off"}, {name: "max_logical_replication_workers", value: "0"}, {name: "synchronous_standby_names"},
		{name: "primary_conninfo", first: 12}, {name: "primary_slot_name", first: 12},
		{name: "archive_cleanup_command", first: 12}, {name: "recovery_end_command", first: 12}, {name: "recovery_min_apply_delay", value: "0", first: 12},
		// It runs nobody's code, as extensions may start jobs by themselves, and may not be installed here.
		{name: "shared_preload_libraries", value: d.Preload}, {name: "session_preload_libraries"}, {name: "local_preload_libraries"},
		// It writes nowhere but into the drill's directory.
		{name: "external_pid_file"}, {name: "stats_temp_directory", value: "pg_stat_tmp", last: 14}, {name: "temp_tablespaces"},
		{name: "logging_collector", value: "off"}, {name: "log_destination", value: "stderr"}, {name: "log_min_messages", value: "warning"}, {name: "lc_messages", value: "C"},
		// The checks are not disturbed.
		{name: "restart_after_crash", value: "off"}, {name: "autovacuum", value: "off"},
		{name: "default_transaction_read_only", value: "off"}, {name: "statement_timeout", value: "0"},
	}
}

// chooseSettings finds out which settings of the original the drill's server must not have.
func (d *drill) chooseSettings(ctx context.Context) (string, error) {
	for name, text := range map[string]string{"hba": "local all all trust\n", "ident": ""} {
		if err := os.WriteFile(filepath.Join(d.Directory, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	data := d.plan.Target
	d.args = []string{"-D", data, "-c", "data_directory=" + data}
	conf, _ := d.plan.ConfigFile()
	if conf == "" {
		conf = filepath.Join(data, "postgresql.conf")
	}
	note := ""
	if _, err := d.ask(ctx, conf, "port"); ctx.Err() != nil {
		return "", context.Cause(ctx)
	} else if err != nil {
		// Includes may lead to files that this host does not have. The data can be tried all the same.
		note = fmt.Sprintf("the original's configuration cannot be used here, so the copy uses PostgreSQL's defaults: %v", err)
		conf = filepath.Join(d.Directory, "postgresql.conf")
		if err := os.WriteFile(conf, []byte(d.least()), 0o644); err != nil {
			return "", err
		}
	}
	if err := d.override(ctx, conf); err != nil {
		return "", err
	}
	if note == "" {
		note = fmt.Sprintf("%d of the original's settings overridden", len(d.Overridden))
	}
	return note, nil
}

// least is a configuration with which the recovery goes on.
func (d *drill) least() string {
	lines := "max_prepared_transactions = 1000\n"
	for _, s := range d.plan.Needs {
		if s.Name != "max_prepared_transactions" || len(s.Value) > 3 {
			lines += s.String() + "\n"
		}
	}
	return lines
}

// override compares what the configuration says with what the server is told.
func (d *drill) override(ctx context.Context, conf string) error {
	var told []string
	set := func(name, value string) error {
		was, err := d.ask(ctx, conf, name)
		if err != nil {
			return err
		}
		if was != value {
			d.Overridden = append(d.Overridden, Override{Name: name, Was: was, Now: value})
		}
		told = append(told, "-c", name+"="+value)
		return nil
	}
	major := d.Backup.PGVersion / 10000
	for _, s := range d.settings() {
		if s.first > major || s.last > 0 && s.last < major {
			continue
		}
		if err := set(s.name, s.value); err != nil {
			return err
		}
	}
	buffers, err := d.ask(ctx, conf, "shared_buffers")
	if err != nil {
		return err
	}
	if n, err := strconv.ParseInt(buffers, 10, 64); err == nil && n > modestBuffers() {
		if err := set("shared_buffers", strconv.FormatInt(modestBuffers(), 10)); err != nil {
			return err
		}
	}
	if pages, err := d.ask(ctx, conf, "huge_pages"); err != nil {
		return err
	} else if pages == "on" {
		if err := set("huge_pages", "try"); err != nil {
			return err
		}
	}
	d.args = append(append(d.args, "-c", "config_file="+conf), told...)
	return nil
}

// ask is what a setting would be by the configuration, in the setting's own unit.
func (d *drill) ask(ctx context.Context, conf, name string) (string, error) {
	var complaint strings.Builder
	cmd := d.command(ctx, "postgres", append(d.args, "-c", "config_file="+conf, "-C", name)...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", errors.New(strings.TrimSpace(complaint.String()) + " (" + err.Error() + ")")
	}
	value := strings.TrimSuffix(string(out), "\n")
	if mode, err := strconv.ParseUint(value, 10, 32); name == "unix_socket_permissions" && err == nil {
		value = fmt.Sprintf("%04o", mode) // told in decimal digits
	}
	return value, nil
}

// modestBuffers is how many blocks of 8 kB the copy may take for itself beside others: an eighth of the memory.
func modestBuffers() int64 {
	const least, block = 128 << 20, 8192
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return least / block
	}
	return max(int64(info.Totalram)*int64(info.Unit)/8, least) / block
}

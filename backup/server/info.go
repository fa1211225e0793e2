package server

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Info is what a backup needs to know of a running server. Settings that the role may not read
// (it takes a superuser or a member of pg_read_all_settings) are empty.
type Info struct {
	VersionNum     int    // 150004 is 15.4
	Version        string // as server_version has it, with the packager's additions
	SystemID       uint64
	CatalogVersion uint32
	Timeline       segment.Timeline // of the latest checkpoint
	DataDirectory  string
	SegmentSize    segment.Size
	BlockSize      int // bytes
	DataChecksums  bool
	InRecovery     bool
	ReplayPaused   bool // in recovery: pg_wal_replay_pause, or a target that was reached

	ArchiveMode, ArchiveCommand, ArchiveLibrary string
	FullPageWrites                              bool
	WALLevel                                    string
	SummarizeWAL                                bool   // 17 and later
	Streams                                     int    // connections in pg_stat_replication
	StatsTempDirectory                          string // up to 14; relative to the data directory, or absolute

	Tablespaces []catalog.Tablespace
	Databases   []catalog.Database // of a running server
	// Subscriptions are those of all databases, as far as the role may know them.
	Subscriptions []catalog.Subscription
	// ConfigFiles are the absolute paths of all configuration files in use, as far as the role may know
	// them: config_file, hba_file, ident_file and what they include.
	ConfigFiles     []string
	ConfigFile      string // the first of them, with which the server was started; empty: the role may not know it
	PostmasterStart time.Time

	Shutdown *datadir.Shutdown // of a stopped server; nil while it runs
}

// Major is the version that decides on file formats: 10 to 18.
func (i Info) Major() int { return i.VersionNum / 10000 }

// So often, and after such a pause, the server is asked for its tablespaces again.
const (
	spaceTries = 10
	spacePause = 100 * time.Millisecond
)

// Info asks the server about itself.
func (s *Session) Info(ctx context.Context) (Info, error) {
	info, err := s.basics(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("read the server's settings: %w", err)
	}
	if info.Tablespaces, err = s.tablespaces(ctx); err != nil {
		return Info{}, fmt.Errorf("list tablespaces: %w", err)
	}
	if info.Databases, err = s.databases(ctx); err != nil {
		return Info{}, fmt.Errorf("list databases: %w", err)
	}
	if info.Subscriptions, err = s.subscriptions(ctx); err != nil {
		return Info{}, fmt.Errorf("list subscriptions: %w", err)
	}
	if info.ConfigFiles, err = s.configFiles(ctx); err != nil {
		return Info{}, fmt.Errorf("list configuration files: %w", err)
	}
	return info, nil
}

func (s *Session) basics(ctx context.Context) (Info, error) {
	// wal_segment_size is in 8 kB in version 10 and in bytes later; pg_size_bytes reads both as printed.
	info := Info{VersionNum: s.version}
	err := s.row(ctx, `
		SELECT s.system_identifier, s.catalog_version_no, c.timeline_id, pg_is_in_recovery(),
		       pg_size_bytes(current_setting('wal_segment_size')),
		       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
		       CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END
		FROM pg_control_system() s, pg_control_checkpoint() c`,
		&info.SystemID, &info.CatalogVersion, &info.Timeline, &info.InRecovery, &info.SegmentSize, &info.PostmasterStart, &info.ReplayPaused)
	if err != nil {
		return Info{}, err
	}

	// From pg_settings, where a setting that the version lacks or the role may not see is simply absent.
	rows, err := s.query(ctx, `SELECT name, setting FROM pg_settings`)
	if err != nil {
		return Info{}, err
	}
	set := map[string]string{}
	for _, r := range rows {
		set[r[0]] = r[1]
	}
	if info.BlockSize, err = strconv.Atoi(set["block_size"]); err != nil {
		return Info{}, fmt.Errorf("block_size: %w", err)
	}
	info.Version, info.DataDirectory, info.WALLevel = set["server_version"], set["data_directory"], set["wal_level"]
	info.ArchiveMode, info.ArchiveCommand, info.ArchiveLibrary = set["archive_mode"], set["archive_command"], set["archive_library"]
	info.DataChecksums, info.FullPageWrites = set["data_checksums"] == "on", set["full_page_writes"] == "on"
	info.SummarizeWAL = set["summarize_wal"] == "on"
	if err := s.row(ctx, `SELECT count(*) FROM pg_stat_replication`, &info.Streams); err != nil {
		return Info{}, fmt.Errorf("count the standbys that stream: %w", err)
	}
	if set["config_file"] != "" {
		info.ConfigFile = filepath.Clean(set["config_file"])
	}
	info.StatsTempDirectory = set["stats_temp_directory"]
	return info, nil
}

// tablespaces asks again when the server cannot tell: the link of one that is being dropped goes a moment before its
// row does.
func (s *Session) tablespaces(ctx context.Context) ([]catalog.Tablespace, error) {
	var rows [][]string
	var err error
	for range spaceTries {
		rows, err = s.query(ctx, `
			SELECT oid, spcname, pg_tablespace_location(oid) FROM pg_tablespace
			WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid`)
		if !declined(err) {
			break
		}
		time.Sleep(spacePause)
	}
	if err != nil {
		return nil, err
	}
	var spaces []catalog.Tablespace
	for _, r := range rows {
		var t catalog.Tablespace
		if err := scan(r, &t.OID, &t.Name, &t.Location); err != nil {
			return nil, err
		}
		if !filepath.IsAbs(t.Location) {
			t.Location = "" // in place: the server says pg_tblspc/OID
		}
		spaces = append(spaces, t)
	}
	return spaces, nil
}

func (s *Session) databases(ctx context.Context) ([]catalog.Database, error) {
	rows, err := s.query(ctx, `SELECT oid, datname, datistemplate FROM pg_database ORDER BY oid`)
	if err != nil {
		return nil, err
	}
	var all []catalog.Database
	for _, r := range rows {
		var d catalog.Database
		if err := scan(r, &d.OID, &d.Name, &d.Template); err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

func (s *Session) subscriptions(ctx context.Context) ([]catalog.Subscription, error) {
	rows, err := s.query(ctx, `SELECT datname, subname FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid ORDER BY 1, 2`)
	if declined(err) {
		return nil, nil // no right to know
	}
	var all []catalog.Subscription
	for _, r := range rows {
		all = append(all, catalog.Subscription{Database: r[0], Name: r[1]})
	}
	return all, err
}

// configFiles gathers from every view that tells of files; which of them exist depends on the version,
// and which may be read on the role.
func (s *Session) configFiles(ctx context.Context) ([]string, error) {
	queries := []string{
		`SELECT setting FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file')`,
		`SELECT DISTINCT sourcefile FROM pg_settings`,
		`SELECT DISTINCT sourcefile FROM pg_file_settings`,
	}
	if s.version >= 160000 { // hba and ident files can include others
		queries = append(queries, `SELECT DISTINCT file_name FROM pg_hba_file_rules`,
			`SELECT DISTINCT file_name FROM pg_ident_file_mappings`)
	}
	var files []string
	for _, q := range queries {
		rows, err := s.query(ctx, q)
		if declined(err) {
			continue // no right to know, or a file that the server cannot read at the moment
		}
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if filepath.IsAbs(r[0]) {
				files = append(files, filepath.Clean(r[0]))
			}
		}
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// ArchiverStatus is pg_stat_archiver: how archive_command (or the archive library) is doing.
type ArchiverStatus struct {
	LastArchived   string // a file name; empty when there was none
	LastArchivedAt time.Time
	ArchivedCount  int64
	LastFailed     string
	LastFailedAt   time.Time
	FailedCount    int64

	Mode      string // archive_mode
	Command   string // archive_command, or archive_library; empty: there is none
	Library   bool   // Command is a library
	Receivers int    // connections that take WAL and do not replay it: wal-receive may be one of them
	Standbys  int    // those that replay it
	Now       time.Time
}

// Archiver asks how archiving is doing. A failure that is newer than the last success means that it is
// stuck now.
func (s *Session) Archiver(ctx context.Context) (ArchiverStatus, error) {
	var a ArchiverStatus
	var command, library string
	err := s.row(ctx, `
		SELECT last_archived_wal, (extract(epoch FROM last_archived_time) * 1000000)::bigint, archived_count,
		       last_failed_wal, (extract(epoch FROM last_failed_time) * 1000000)::bigint, failed_count,
		       (SELECT setting FROM pg_settings WHERE name = 'archive_mode'),
		       (SELECT setting FROM pg_settings WHERE name = 'archive_command'),
		       (SELECT setting FROM pg_settings WHERE name = 'archive_library'),
		       (SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NULL),
		       (SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NOT NULL),
		       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
		FROM pg_stat_archiver`, &a.LastArchived, &a.LastArchivedAt, &a.ArchivedCount, &a.LastFailed, &a.LastFailedAt, &a.FailedCount,
		&a.Mode, &command, &library, &a.Receivers, &a.Standbys, &a.Now)
	if err != nil {
		return ArchiverStatus{}, fmt.Errorf("read pg_stat_archiver: %w", err)
	}
	a.Command, a.Library = cmp.Or(library, command), library != ""
	return a, nil
}

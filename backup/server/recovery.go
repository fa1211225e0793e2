package server

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/walstore/segment"
)

// Recovery is what a server says of its own recovery.
type Recovery struct {
	VersionNum    int
	SystemID      uint64
	DataDirectory string // empty when the role may not know it
	InRecovery    bool
	Paused        bool             // it waits: at its target, or because it was told to
	Replayed      segment.LSN      // the end of the last record that was replayed since the server was started
	LastCommit    time.Time        // of the last transaction that was replayed since then
	Timeline      segment.Timeline // that it writes to; 0 in recovery
	Settings      map[string]int   // those that a recovery may not have less of than the server that wrote the WAL
}

// Recovery asks the server how far its recovery is, or was.
func (s *Session) Recovery(ctx context.Context) (r Recovery, err error) {
	paused := `pg_is_wal_replay_paused()`
	if s.version >= 140000 { // the other is true as soon as a pause has been asked for
		paused = `pg_get_wal_replay_pause_state() = 'paused'`
	}
	r.VersionNum, r.Settings = s.version, map[string]int{}
	var all string
	err = s.row(ctx, `
		SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN `+paused+` END, pg_last_wal_replay_lsn(),
		  (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint,
		  CASE WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END,
		  (SELECT setting FROM pg_settings WHERE name = 'data_directory'), (SELECT system_identifier FROM pg_control_system()),
		  (SELECT string_agg(name || ' ' || setting, ',') FROM pg_settings
		    WHERE name IN ('max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction'))`,
		&r.InRecovery, &r.Paused, &r.Replayed, &r.LastCommit, &r.Timeline, &r.DataDirectory, &r.SystemID, &all)
	if err != nil {
		return r, fmt.Errorf("ask the server about its recovery: %w", err)
	}
	for s := range strings.SplitSeq(all, ",") {
		name, value, _ := strings.Cut(s, " ")
		r.Settings[name], _ = strconv.Atoi(value) // they are numbers
	}
	return r, nil
}

// HasExtension says whether an extension could be installed, or is.
func (s *Session) HasExtension(ctx context.Context, name string) (bool, error) {
	rows, err := s.query(ctx, `SELECT 1 FROM pg_available_extensions WHERE name = $1`, name)
	return len(rows) > 0, err
}

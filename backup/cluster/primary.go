package cluster

import (
	"context"
	"fmt"
	"strconv"
)

// SwitchWAL makes the primary of the cluster end its current WAL segment, so that it archives it: a standby
// cannot do that, and the end of a standby's backup may lie in a segment that would otherwise stay open for hours on
// an idle primary. Before it there is a record more, as a recovery with the target "immediate" only notices at the
// next record that it is consistent. It takes EXECUTE on pg_switch_wal().
func SwitchWAL(ctx context.Context, dsn string, systemID uint64) (err error) {
	s, err := Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("switch the WAL segment on the primary: %w", err)
	}
	defer s.Close(context.WithoutCancel(ctx))
	rows, err := s.query(ctx, `SELECT system_identifier, pg_is_in_recovery() FROM pg_control_system()`)
	if err != nil {
		return fmt.Errorf("switch the WAL segment on the primary: %w", refused(err))
	}
	id, err := strconv.ParseInt(rows[0][0], 10, 64) // SQL has no unsigned numbers
	switch {
	case err != nil:
		return fmt.Errorf("switch the WAL segment on the primary: %w", err)
	case uint64(id) != systemID:
		return fmt.Errorf("%w to switch the WAL segment: the server that answered as the primary has system identifier %d, the standby's is %d", ErrRefused, uint64(id), systemID)
	case rows[0][1] == "t":
		return fmt.Errorf("%w to switch the WAL segment: the server that answered as the primary is a standby itself", ErrRefused)
	}
	if _, err := s.query(ctx, `SELECT pg_logical_emit_message(false, 'pgobj', 'backup of a standby'), pg_switch_wal()`); err != nil {
		return fmt.Errorf("switch the WAL segment on the primary: %w", refused(err))
	}
	return nil
}

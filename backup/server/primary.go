package server

import (
	"context"
	"fmt"
)

// Primary is the primary of a standby that a backup is taken of. Each call makes a new connection.
type Primary struct {
	DSN      string
	SystemID uint64 // of the standby
}

// SwitchWAL makes the primary end its current WAL segment, so that it archives it: a standby cannot do that, and the end of a
// standby's backup may lie in a segment that would otherwise stay open for hours on an idle primary. It takes EXECUTE on
// pg_switch_wal().
func (p *Primary) SwitchWAL(ctx context.Context) error {
	err := p.do(ctx, func(s *Session) error { return s.SwitchWAL(ctx) })
	if err != nil {
		return fmt.Errorf("switch the WAL segment on the primary: %w", err)
	}
	return nil
}

// Archiver asks how archiving is doing on the primary.
func (p *Primary) Archiver(ctx context.Context) (a ArchiverStatus, err error) {
	err = p.do(ctx, func(s *Session) (err error) {
		a, err = s.Archiver(ctx)
		return err
	})
	return a, err
}

// do calls f with a session on the primary, when it is that.
func (p *Primary) do(ctx context.Context, f func(*Session) error) error {
	s, err := Connect(ctx, p.DSN)
	if err != nil {
		return err
	}
	defer s.Close(context.WithoutCancel(ctx))
	var id uint64
	var standby bool
	if err := s.row(ctx, `SELECT system_identifier, pg_is_in_recovery() FROM pg_control_system()`, &id, &standby); err != nil {
		return refused(err)
	}
	switch {
	case id != p.SystemID:
		return fmt.Errorf("%w: the server that answered as the primary has system identifier %d, but the standby has %d", ErrRefused, id, p.SystemID)
	case standby:
		return fmt.Errorf("%w: the server that answered as the primary is a standby itself", ErrRefused)
	}
	return f(s)
}

// SwitchWAL makes the server end its current WAL segment. Before it there is a record more, as an idle server would have nothing
// to end, and a recovery with the target "immediate" only notices at the next record that it is consistent.
func (s *Session) SwitchWAL(ctx context.Context) error {
	if _, err := s.query(ctx, `SELECT pg_logical_emit_message(false, 'pgobj', 'backup'), pg_switch_wal()`); err != nil {
		return refused(err)
	}
	return nil
}

package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Watch keeps an eye on the session while files are copied: the context that it returns ends, with a
// cause that says that the backup is void, once the server no longer answers or (on a standby) was
// promoted. Without it a backup of many hours would learn only at its end that it was in vain.
//
// stop ends the watch and waits for it; it must be called, and may be called more than once.
func (s *Session) Watch(ctx context.Context) (watched context.Context, stop func()) {
	return watch(ctx, s.PingEvery, s.ping)
}

// watch calls look now and then, until it returns an error: then the backup is void.
func watch(ctx context.Context, every time.Duration, look func(context.Context) error) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	var looking sync.WaitGroup // for which stop waits
	looking.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-watched.Done():
				return
			case <-tick.C:
				if err := look(watched); err != nil && watched.Err() == nil {
					cancel(fmt.Errorf("the backup is not valid: %w", err))
					return
				}
			}
		}
	})
	return watched, sync.OnceFunc(func() {
		cancel(context.Canceled)
		looking.Wait()
	})
}

// ping asks the server for a sign of life, and whether it still is what it was when the backup began.
func (s *Session) ping(ctx context.Context) error {
	if !s.mu.TryLock() {
		return nil // another call is under way and will find out
	}
	defer s.mu.Unlock()
	// The connection must survive the end of the watch, which may come in the middle of a ping: a
	// context that is cancelled would cancel the query.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	var pid uint32
	var inRecovery bool
	err := s.lockedRow(ctx, `SELECT pg_backend_pid(), pg_is_in_recovery()`, &pid, &inRecovery)
	switch {
	case err != nil && !errors.Is(err, ErrSessionLost):
		return fmt.Errorf("%w: %w", ErrSessionLost, err)
	case err != nil:
		return err
	case pid != s.conn.PID():
		return fmt.Errorf("%w: another server process answers", ErrPooler)
	case s.started && s.inRecovery && !inRecovery:
		return ErrPromoted
	}
	return nil
}

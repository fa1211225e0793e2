package receive

import (
	"context"
	"fmt"
	"time"

	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
)

// keep stores what the reader spools, in order, until the stream has ended and all is stored. The error is final, or
// ctx was done before.
func (s *stream) keep(ctx context.Context) error {
	for {
		full, cur, to, done := s.job()
		var err error
		switch {
		case full != nil:
			err = s.again(ctx, full.name, func() error { return s.complete(ctx, full) })
		case cur != nil:
			err = s.again(ctx, cur.name, func() error { return s.partial(ctx, cur, to) })
		case done:
			return nil
		default:
			err = s.await(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// job is what to do now: store a complete segment, or the current one as far as it goes. done: there will be no more.
func (s *stream) job() (full, cur *spooled, to int64, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.full) > 0 {
		return s.full[0], nil, 0, false
	}
	c := s.cur
	due := s.ended || s.hurry || s.Interval == 0 || time.Since(s.last) >= s.Interval
	switch {
	case c.before != nil && (c.received >= c.reach || s.ended || s.hurry): // its comparison costs no request
		s.hurry = false
		return nil, c, c.received, false
	case c.before == nil && due && c.received > max(c.durable, segment.HeaderSize-1):
		return nil, c, c.received, false
	}
	s.hurry = false
	return nil, nil, 0, s.ended
}

// await returns when there may be something to do.
func (s *stream) await(ctx context.Context) error {
	wait := time.Hour
	if s.Interval > 0 {
		wait = max(time.Until(s.last.Add(s.Interval)), 0) + time.Millisecond
		if wait == time.Millisecond {
			wait = s.Interval // due already, and nothing has been received: work will say so
		}
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-s.work:
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// again does it until it is done, or will never be. While that takes long, nothing is received.
func (s *stream) again(ctx context.Context, name string, do func() error) error {
	var leaving *time.Timer
	began := time.Now()
	for wait := waitMin; ; wait = min(2*wait, waitMax) {
		err := do()
		if err == nil || s.final(err) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s was received, but could not be stored in time: %w", name, err)
		}
		s.Log.Warn("received WAL cannot be stored; trying again", "segment", name, "in", wait, "error", err)
		if leaving == nil {
			leaving = time.AfterFunc(patience-time.Since(began), func() { s.leave(errUnstored) })
			defer leaving.Stop()
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// complete stores a whole segment.
func (s *stream) complete(ctx context.Context, c *spooled) error {
	if err := s.settle(c, c.received); err != nil {
		return err
	}
	res, err := walstore.Push(ctx, s.Store, walstore.PushRequest{Path: c.name, File: c.f, Level: s.Level, Spill: s.Spool,
		SystemID: func() (uint64, error) { return s.sysid, nil }})
	if err != nil {
		return err
	}
	for _, w := range res.Warnings {
		s.Log.Warn(w)
	}
	s.Log.Debug("stored", "segment", c.name, "already_there", res.AlreadyThere, "stored", res.Stored)
	s.mu.Lock()
	s.full = s.full[1:]
	s.next[c.Timeline] = c.No + 1
	if l := s.later[c.Timeline]; len(l) > 0 && l[0] <= c.No+1 {
		s.later[c.Timeline] = l[1:]
	}
	s.mu.Unlock()
	c.close()
	wake(s.room)
	s.secured(c.Next().Start(s.size), append(c.pieces, c.strays...))
	return nil
}

// partial stores the current segment's first to bytes.
func (s *stream) partial(ctx context.Context, c *spooled, to int64) error {
	if c.before != nil {
		if err := s.settle(c, to); err != nil {
			return err
		}
		s.secured(c.Start(s.size)+segment.LSN(min(to, c.reach)), nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		if c.before != nil && s.ended { // an earlier stream got further
			c.before.Close()
			c.before, c.durable = nil, c.reach
		}
		return nil
	}
	store, replaced := c.plan(to)
	for _, p := range store {
		if p == c.damaged { // nothing is replaced
			if err := partial.DropPiece(ctx, s.Store, s.sysid, p); err != nil {
				return err
			}
		}
		if err := partial.PutPiece(ctx, s.Store, s.sysid, p, c.f); err != nil {
			return err
		}
	}
	s.Log.Debug("stored a part of", "segment", c.name, "bytes", to)
	gone := append(c.covered(store), replaced...)
	c.damaged = object.Piece{}
	c.stored(to, store, replaced)
	s.secured(c.Start(s.size)+segment.LSN(to), gone)
	return nil
}

// secured notes that all up to a position is in the archive, tells the server, and has what that replaces removed.
func (s *stream) secured(upTo segment.LSN, replaced []object.Piece) {
	s.mu.Lock()
	s.safe, s.last = upTo, time.Now()
	s.trash = append(s.trash, replaced...)
	s.mu.Unlock()
	_ = s.conn.Status(upTo, time.Now(), false) // if the connection is gone, the reader finds out
	wake(s.rubbish)
}

// sweep removes pieces that others stand in for. It is not waited for when WAL is stored, and need not succeed.
func (s *stream) sweep(ctx context.Context) {
	failed := false
	for range s.rubbish {
		s.mu.Lock()
		trash := s.trash
		s.trash = nil
		s.mu.Unlock()
		for _, p := range trash {
			err := partial.DropPiece(ctx, s.Store, s.sysid, p)
			if err != nil && !failed && ctx.Err() == nil {
				failed = true
				s.Log.Warn("could not remove parts of segments that are not needed any more", "object", p.String(), "error", err)
			}
		}
	}
}

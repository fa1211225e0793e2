package receive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// stream is one stream of one timeline: a reader that spools what the server sends, and a keeper that stores it.
type stream struct {
	*receiver
	conn *server.Replication

	mu      sync.Mutex
	cur     *spooled   // is being received
	full    []*spooled // wait to be stored
	ended   bool       // no more is received
	hurry   bool       // the server waits for what it has sent
	safe    segment.LSN
	heard   time.Time // from the server; zero while the reader does not listen
	trash   []object.Piece
	work    chan struct{} // something for the keeper, or the reader, to look at
	room    chan struct{}
	rubbish chan struct{}
	last    time.Time // when something was stored
	leave   context.CancelCauseFunc
}

// maxFull is how many complete segments may wait to be stored.
func (s *stream) maxFull() int { return int(max(1, min(4, (256<<20)/uint64(s.size)))) }

var (
	// errServerEnds: the server has sent all it had, and stops.
	errServerEnds = errors.New("the server is shutting down")
	// errUnstored: what was received could not be stored for so long that the server was left.
	errUnstored = errors.New("the storage was not reachable")
)

// answerEvery is how often the server gets the same answer. One that is stopping asks again as soon as it has it.
const answerEvery = 100 * time.Millisecond

// stream receives from a position on until the timeline ends (nil), the connection does, or ctx is done. Whatever the
// reason, all that was received is stored before it returns, unless the storage does not let it.
func (r *receiver) stream(ctx context.Context, conn *server.Replication, at start) (err error) {
	s := &stream{receiver: r, conn: conn, work: make(chan struct{}, 1), room: make(chan struct{}, 1), rubbish: make(chan struct{}, 1), last: time.Now()}
	if s.cur, err = r.newSpooled(ctx, at.Segment, true); err != nil {
		return err
	}
	defer func() {
		s.cur.close()
		for _, f := range s.full {
			f.close()
		}
	}()
	begin := at.Start(r.size)
	r.pos = Position{Timeline: at.Timeline, Begin: begin, Received: begin}
	r.next[at.Timeline] = at.No
	if at.follows {
		s.safe, s.pos.Stored = begin, begin
	}
	tick, err := s.statusEvery(ctx)
	if err != nil {
		return err
	}
	if err := conn.Start(ctx, r.Slot, at.Timeline, begin); err != nil {
		return err
	}
	if !r.started {
		r.started = true
		r.Log.Info("receiving WAL", "system_id", r.sysid, "timeline", uint32(at.Timeline), "from", begin.String(), "segment", at.Name(r.size), "slot", r.Slot)
	} else {
		r.Log.Info("receiving again", "timeline", uint32(at.Timeline), "from", begin.String())
	}
	return s.run(ctx, tick)
}

// statusEvery is how often the server has to hear from us.
func (s *stream) statusEvery(ctx context.Context) (time.Duration, error) {
	limit, err := s.conn.Timeout(ctx)
	if err != nil || limit == 0 {
		return s.Status, err
	}
	return max(100*time.Millisecond, min(s.Status, limit/3)), nil
}

func (s *stream) run(ctx context.Context, tick time.Duration) error {
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s.leave = stop
	storing, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	grace := context.AfterFunc(ctx, func() { time.AfterFunc(graceful, abandon) })
	defer grace()

	var helpers, keeper sync.WaitGroup
	helpers.Go(func() { s.report(reading, stop, tick) })
	helpers.Go(func() { s.sweep(storing) })
	var stored error
	keeper.Go(func() {
		if stored = s.keep(storing); stored != nil {
			stop(stored)
		}
	})
	received := s.receive(reading)
	if errors.Is(context.Cause(reading), errUnstored) { // what was received stays here until it is stored
		s.Log.Warn("the storage is not reachable: the connection to the server is closed until WAL can be stored again", "at", s.pos.Received.String(), "slot", s.Slot)
		s.conn.Close()
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	wake(s.work)
	keeper.Wait()
	if s.safe != 0 {
		_ = s.conn.Status(s.safe, time.Now(), false) // the connection may be the reason for the end
	}
	s.pos.Stored = s.safe
	stop(nil)
	time.AfterFunc(5*time.Second, abandon) // what was replaced and stays is found by the next receiver
	close(s.rubbish)
	helpers.Wait()
	if stored != nil {
		return stored
	}
	if cause := context.Cause(reading); received != nil && ctx.Err() == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return received
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // somebody will look anyhow
	}
}

// receive spools what the server sends, up to the end of the timeline (nil) or of the stream.
func (s *stream) receive(ctx context.Context) error {
	answered := time.Time{}
	for {
		s.listen(true)
		m, err := s.conn.Receive(ctx)
		s.listen(false)
		switch {
		case err != nil:
			return err
		case m.End && m.Next == 0:
			return errServerEnds
		case m.End:
			if m.At != s.pos.Received {
				return fmt.Errorf("%w: the server ends timeline %d at %s, but has sent it up to %s", ErrStream, s.pos.Timeline, m.At, s.pos.Received)
			}
			s.Log.Info("the timeline has ended", "timeline", uint32(s.pos.Timeline), "at", m.At.String(), "next", uint32(m.Next))
			return nil
		case m.Reply:
			s.mu.Lock()
			s.hurry = true
			safe := s.safe
			s.mu.Unlock()
			wake(s.work)
			if time.Since(answered) < answerEvery {
				break // the keeper tells when more is safe, and report that we live
			}
			answered = time.Now()
			if err := s.conn.Status(safe, answered, false); err != nil {
				return err
			}
		}
		if err := s.spool(ctx, m); err != nil {
			return err
		}
	}
}

func (s *stream) listen(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Time{}
	if on {
		s.heard = time.Now()
	}
}

// spool writes WAL to the segments that it belongs to.
func (s *stream) spool(ctx context.Context, m server.Received) error {
	if len(m.Data) > 0 && m.At != s.pos.Received {
		return fmt.Errorf("%w: it continues at %s instead of %s", ErrStream, m.At, s.pos.Received)
	}
	for data := m.Data; len(data) > 0; {
		c := s.cur
		n := min(int64(len(data)), int64(s.size)-c.received)
		if _, err := c.f.WriteAt(data[:n], c.received); err != nil {
			return fmt.Errorf("%w: %w", ErrSpool, err)
		}
		begins := c.received < segment.HeaderSize && c.received+n >= segment.HeaderSize
		data = data[n:]
		s.pos.Received += segment.LSN(n)
		if begins {
			if err := c.check(s.sysid, s.size); err != nil {
				return err
			}
		}
		if err := s.grown(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// grown lets the keeper see n more bytes, and begins the next segment when this one is complete. It waits while too many
// are waiting: then the server has to.
func (s *stream) grown(ctx context.Context, n int64) error {
	var next *spooled
	if s.cur.received+n == int64(s.size) {
		var err error
		if next, err = s.newSpooled(ctx, s.cur.Next(), false); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.cur.received += n
	if next != nil {
		s.full = append(s.full, s.cur)
		s.cur = next
	}
	s.mu.Unlock()
	wake(s.work)
	for {
		s.mu.Lock()
		crowded := len(s.full) > s.maxFull()
		s.mu.Unlock()
		if !crowded {
			return nil
		}
		select {
		case <-s.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// report tells the server every tick what is stored, and ends the stream when the server is silent although it was asked.
func (s *stream) report(ctx context.Context, stop context.CancelCauseFunc, tick time.Duration) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		safe, heard := s.safe, s.heard
		s.mu.Unlock()
		if silent := time.Since(heard); !heard.IsZero() && silent > max(time.Minute, 3*tick) {
			stop(fmt.Errorf("the server has sent nothing for %v", silent.Round(time.Second)))
			return
		}
		if err := s.conn.Status(safe, time.Now(), true); err != nil {
			stop(err)
			return
		}
	}
}

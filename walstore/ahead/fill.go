package ahead

import (
	"context"
	"io"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/spool"
)

// filler fills a window.
type filler struct {
	store    storage.Store
	systemID uint64
	size     segment.Size
	window   *spool.Window
	count    int // segments in the window

	flights map[string]*flight
	landed  chan string // names of flights that are over, well or not
	next    segment.Segment
	until   uint64 // the last segment number of the window
	ended   bool   // a flight has failed, at the end of the archive most likely: no new ones until the next request
}

// flight is a segment on its way.
type flight struct {
	stop    context.CancelFunc
	dropped bool // nobody wants it any more
}

// run fetches the segments after the one that PostgreSQL got last, as asked tells, until ctx is done or nothing
// was asked for idle. A segment that cannot be had, for whatever reason, is left to walstore.Fetch, which finds
// out why when PostgreSQL asks; until then nothing is tried again, so the end of the archive costs one
// request for each segment that PostgreSQL gets.
func (p *filler) run(ctx context.Context, first string, asked <-chan string, idle time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	p.flights, p.landed = map[string]*flight{}, make(chan string)
	defer func() {
		cancel()
		for len(p.flights) > 0 {
			delete(p.flights, <-p.landed)
		}
	}()
	p.move(first)
	quiet := time.NewTimer(idle)
	defer quiet.Stop()
	for {
		p.start(ctx)
		select {
		case name := <-asked:
			p.move(name)
			quiet.Reset(idle)
		case name := <-p.landed:
			if _, _, ok := p.window.Find(name); !ok && !p.flights[name].dropped {
				p.ended = true
			}
			delete(p.flights, name)
		case <-quiet.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// move lets the window begin after the segment called name, and drops what is not in it.
func (p *filler) move(name string) {
	got, err := segment.ParseName(name, p.size)
	if err != nil {
		return // no segment of this cluster
	}
	p.next, p.until, p.ended = got.Next(), got.No+uint64(p.count), false // start passes over what is there
	inside := func(name string) bool {
		s, err := segment.ParseName(name, p.size)
		return err == nil && s.Timeline == got.Timeline && s.No > got.No && s.No <= p.until
	}
	for name, f := range p.flights {
		if !inside(name) {
			f.dropped = true
			f.stop()
		}
	}
	for _, name := range p.window.Names() {
		if !inside(name) {
			p.window.Forget(name)
		}
	}
}

func (p *filler) start(ctx context.Context) {
	for !p.ended && p.next.No <= p.until && len(p.flights) < fetchJobs {
		name := p.next.Name(p.size)
		p.next = p.next.Next()
		if _, flying := p.flights[name]; flying {
			continue
		}
		if _, _, ok := p.window.Find(name); ok {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		p.flights[name] = &flight{stop: cancel}
		go func() { // run waits for it at landed
			defer cancel()
			p.fetch(ctx, name)
			p.landed <- name
		}()
	}
}

// fetch puts a segment into the window if it can be had. What is wrong is walstore.Fetch's to say.
func (p *filler) fetch(ctx context.Context, name string) {
	f, err := p.window.Create(name)
	if err != nil {
		return
	}
	defer f.Close()
	sum := xxhash.New()
	_, err = walstore.Read(ctx, p.store, name, p.systemID, io.MultiWriter(f, sum))
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = p.window.Keep(f, name, sum.Sum64())
	}
	if err != nil {
		p.window.Drop(f)
	}
}

package walstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/spool"
)

// Deliver gives PostgreSQL a file that was fetched before, after checking it again: its content has to have the
// XXH3 that it had when its SHA-256 was found right, and its header has to be the right one. (Recovery waits for this, and
// XXH3 takes a tenth of the time.) On an error nothing is handed over, and the file is removed; no conclusion may be
// drawn but to fetch it from the archive.
func Deliver(path string, sum uint64, r FetchRequest) (err error) {
	defer func() {
		if err != nil {
			os.Remove(path)
			err = fmt.Errorf("deliver %s: %w", r.Name, err)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	content := xxh3.New()
	dst := object.NewChecked(io.Discard, r.Name, r.SystemID, content)
	if _, err := io.CopyBuffer(dst, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return err
	}
	if err := dst.Finish(); err != nil {
		return err
	}
	if got := content.Sum64(); got != sum {
		return fmt.Errorf("it has XXH3 %016x, not %016x any more", got, sum)
	}
	if err := os.Rename(path, r.Dest); !errors.Is(err, syscall.EXDEV) {
		return err // it was synced when it was fetched, and PostgreSQL syncs what it keeps (durable_rename)
	}
	return copyOver(f, r)
}

// copyOver is for a window on another file system.
func copyOver(f *os.File, r FetchRequest) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return throughTemp(r.Dest, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// Prefetch fills a window.
type Prefetch struct {
	Store    storage.Store
	SystemID uint64
	Size     segment.Size
	Window   *spool.Window
	Count    int // segments in the window
	Jobs     int // of them at once

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

// Run fetches the segments after the one that PostgreSQL got last, as asked tells, until ctx is done or nothing
// was asked for idle. A segment that cannot be had, for whatever reason, is left to Fetch, which finds
// out why when PostgreSQL asks; until then nothing is tried again, so the end of the archive costs one
// request for each segment that PostgreSQL gets.
func (p *Prefetch) Run(ctx context.Context, first string, asked <-chan string, idle time.Duration) {
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
			if _, _, ok := p.Window.Find(name); !ok && !p.flights[name].dropped {
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
func (p *Prefetch) move(name string) {
	got, err := segment.ParseName(name, p.Size)
	if err != nil {
		return // no segment of this cluster
	}
	p.next, p.until, p.ended = got.Next(), got.No+uint64(p.Count), false // start passes over what is there
	inside := func(name string) bool {
		s, err := segment.ParseName(name, p.Size)
		return err == nil && s.Timeline == got.Timeline && s.No > got.No && s.No <= p.until
	}
	for name, f := range p.flights {
		if !inside(name) {
			f.dropped = true
			f.stop()
		}
	}
	for _, name := range p.Window.Names() {
		if !inside(name) {
			p.Window.Forget(name)
		}
	}
}

func (p *Prefetch) start(ctx context.Context) {
	for !p.ended && p.next.No <= p.until && len(p.flights) < p.Jobs {
		name := p.next.Name(p.Size)
		p.next = p.next.Next()
		if _, flying := p.flights[name]; flying {
			continue
		}
		if _, _, ok := p.Window.Find(name); ok {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		p.flights[name] = &flight{stop: cancel}
		go func() { // Run waits for it at landed
			defer cancel()
			p.fetch(ctx, name)
			p.landed <- name
		}()
	}
}

// fetch puts a segment into the window if it can be had. What is wrong is Fetch's to say.
func (p *Prefetch) fetch(ctx context.Context, name string) {
	f, err := p.Window.Create(name)
	if err != nil {
		return
	}
	defer f.Close()
	sum := xxh3.New()
	_, err = Read(ctx, p.Store, name, p.SystemID, io.MultiWriter(f, sum))
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = p.Window.Keep(f, name, sum.Sum64())
	}
	if err != nil {
		p.Window.Drop(f)
	}
}

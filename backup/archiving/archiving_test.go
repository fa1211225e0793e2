package archiving

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// busy is a server that has archived another segment whenever it is asked; somebody brings them here, later by lag.
type busy struct {
	store storage.Store
	lag   int64
	last  segment.Segment
}

const size = 1 << 24

func (b *busy) Archiver(ctx context.Context) (server.ArchiverStatus, error) {
	b.last = b.last.Next()
	if no := int64(b.last.No) - b.lag; no > 100 {
		key := object.Key(1, segment.Segment{Timeline: 1, No: uint64(no)}.Name(size))
		if err := b.store.Put(ctx, key, strings.NewReader("x"), 1); err != nil {
			return server.ArchiverStatus{}, err
		}
	}
	now := time.Unix(int64(b.last.No), 0)
	return server.ArchiverStatus{Mode: "on", Command: "true", LastArchived: b.last.Name(size), LastArchivedAt: now, Now: now}, nil
}

func (b *busy) SwitchWAL(context.Context) error { return nil }

// What wal-receive or a standby brings to a busy server's archive is always a little older than what the server has archived elsewhere.
func TestNewestIsAlwaysOnItsWay(t *testing.T) {
	for lag, want := range map[int64]error{3: nil, 1 << 40: ErrElsewhere} {
		s := mem.New()
		w := &Watch{Server: &busy{s, lag, segment.Segment{Timeline: 1, No: 100}}, Store: s, SystemID: 1, Log: slog.New(slog.DiscardHandler)}
		w.Begin(t.Context())
		if err := w.Run(t.Context(), Any); !errors.Is(err, want) {
			t.Errorf("a lag of %d: %v, want %v", lag, err, want)
		}
	}
}

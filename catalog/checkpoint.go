package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pgobj/pgobj/storage"
)

const (
	// checkpointEvery is how many records a reader has to fetch at most besides checkpoints.
	checkpointEvery = 10
	// wholeEvery is how many records, at least, lie between checkpoints that hold the whole state. Those between them
	// only hold the records since the last whole one.
	wholeEvery = 100
)

// checkpoint saves readers the records up to one. It holds the state that these fold to, or the records after
// Base, from which on another checkpoint (0: the empty state) has to be completed.
type checkpoint struct {
	Version int               `json:"version"`
	State   *State            `json:"state,omitempty"`
	Base    int64             `json:"base,omitempty"`
	Records []json.RawMessage `json:"records,omitempty"`
}

// checkpointKey has the number counted down in front, so that the first key of a listing is the newest
// checkpoint: one request finds it, however old the log is.
func checkpointKey(n int64) string {
	return fmt.Sprintf("catalog/checkpoints/%010d-%010d.json", 9999999999-n, n)
}

// wholeDue says whether the next checkpoint has to hold the whole state. A state of many backups is large, and
// the records are small: so the larger it is, the rarer.
func (s *State) wholeDue() bool {
	return s.whole < 0 || len(s.tail) >= max(wholeEvery, len(s.Entries)/20)
}

// checkpoint writes one of the state, which is the head of a log without faults.
func (c *Catalog) checkpoint(ctx context.Context, s *State, whole bool) error {
	cp := checkpoint{Version: Version, Base: s.whole, Records: s.tail}
	if whole {
		cp = checkpoint{Version: Version, State: s}
	}
	data, err := seal(cp)
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	// Everybody folds the same records to the same state, so one that exists already is as good.
	err = c.store.Put(ctx, checkpointKey(s.N), bytes.NewReader(data), int64(len(data)))
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("write a checkpoint of the catalog: %w", err)
	}
	if err == nil && whole {
		s.whole, s.tail = s.N, nil
	}
	return nil
}

// loadCheckpoint returns the newest checkpoint that can be used, or the empty state. A checkpoint only
// saves time, so one that is damaged is passed over.
func (c *Catalog) loadCheckpoint(ctx context.Context) (*State, error) {
	for range 3 {
		gone := false
		for info, err := range c.store.List(ctx, "catalog/checkpoints/", "") {
			if err != nil {
				return nil, fmt.Errorf("list the catalog: %w", err)
			}
			s, err := c.readCheckpoint(ctx, info.Key)
			if errors.Is(err, storage.ErrNotFound) {
				gone = true // a deletion has just removed it: there is a newer one
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read the catalog: %w", err)
			}
			if s != nil {
				return s, nil
			}
		}
		if !gone {
			break
		}
	}
	return &State{}, nil
}

// readCheckpoint is nil without an error when it cannot be used.
func (c *Catalog) readCheckpoint(ctx context.Context, key string) (*State, error) {
	data, err := storage.ReadAll(ctx, c.store, key, maxState)
	if errors.Is(err, storage.ErrTooLarge) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var cp checkpoint
	if unseal(data, &cp) != nil || cp.Version != Version {
		return nil, nil
	}
	s := cp.State
	switch {
	case s != nil && (s.N <= 0 || s.check() != nil):
		return nil, nil
	case s != nil:
		s.whole = s.N
	case len(cp.Records) == 0 || cp.Base < 0:
		return nil, nil
	case cp.Base == 0:
		s = &State{}
	default:
		if checkpointKey(cp.Base) <= key { // it has to be older, which also ends the recursion
			return nil, nil
		}
		if s, err = c.readCheckpoint(ctx, checkpointKey(cp.Base)); err != nil || s == nil || s.N != s.whole {
			return nil, err
		}
	}
	for _, r := range cp.Records {
		s.apply(s.N+1, r)
	}
	if checkpointKey(s.N) != key || len(cp.Records) > 0 && len(s.Problems) > 0 {
		return nil, nil
	}
	return s, nil
}

// Prune removes the checkpoints that are older than the newest one with a whole state, which s was read from or
// written to: so their number stays bounded where deletions are allowed.
func (c *Catalog) Prune(ctx context.Context, s *State) error {
	if s.whole <= 0 {
		return nil
	}
	var old []string
	for info, err := range c.store.List(ctx, "catalog/checkpoints/", checkpointKey(s.whole)) {
		if err != nil {
			return fmt.Errorf("list old checkpoints of the catalog: %w", err)
		}
		old = append(old, info.Key)
	}
	if len(old) == 0 {
		return nil
	}
	if err := c.store.Delete(ctx, old...); err != nil {
		return fmt.Errorf("remove old checkpoints of the catalog: %w", err)
	}
	return nil
}

// Package catalog owns what is known of a server's backups: the log of records, checkpoints of it, and
// each backup's backup.json; every key below catalog/ and backups/. FORMAT.md beside it describes the
// whole repository for people. It refuses policy (retention) and PostgreSQL.
//
// The log is the one thing that processes agree about. Record N+1 is created under its own name, which
// the store lets only one writer do; the loser reads on and tries again. So there is one order of events
// without a lock, and safety follows from the order alone: see State.CheckCommit.
package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/storage"
)

// Version is the format that this package writes and reads.
const Version = 1

// What is larger is not pgobj's: bounds of memory, in bytes. A backup.json of that size is one of 36 TB of database.
const (
	maxRecord = 4 << 20
	maxState  = 64 << 20 // a checkpoint, or a record that holds a whole state
	maxBackup = 256 << 20
)

// maxGap is how many missing records are told one by one.
const maxGap = 1000

// Record is one entry of the log. Exactly one of the pointers is set, the one that Type names.
type Record struct {
	Version int       `json:"version"`
	N       int64     `json:"n"`
	Prev    string    `json:"prev,omitempty"` // SHA-256 of record N-1 as stored; none in the first
	Time    time.Time `json:"time"`           // by the writer's clock; informative
	By      string    `json:"by"`             // who wrote it: HOST/PID/RANDOM
	Type    string    `json:"type"`

	Server  *Server  `json:"server,omitempty"`
	Begin   *Begin   `json:"begin,omitempty"`
	Commit  *Commit  `json:"commit,omitempty"`
	Abort   *Abort   `json:"abort,omitempty"`
	Pin     *Pin     `json:"pin,omitempty"`
	Unpin   *Pin     `json:"unpin,omitempty"`
	Delete  *Delete  `json:"delete,omitempty"`
	Purged  *Purged  `json:"purged,omitempty"`
	Rebuilt *Rebuilt `json:"rebuilt,omitempty"`
	Drill   *Drill   `json:"drill,omitempty"`
}

// ErrDamaged is the cause of every error about a catalog object that is not what pgobj wrote.
var ErrDamaged = errors.New("catalog object is damaged")

// ErrNewer says that a newer pgobj has written to the catalog what this one does not understand.
var ErrNewer = errors.New("catalog was written by a newer pgobj")

func recordKey(n int64) string { return fmt.Sprintf("catalog/log/%010d.json", n) }

// Catalog is the log of one server.
type Catalog struct {
	store storage.Store
	by    string
	now   func() time.Time
}

// New returns the catalog in a store that is rooted at the server's directory. by names the writer in
// records; now is the clock.
func New(s storage.Store, by string, now func() time.Time) *Catalog {
	return &Catalog{store: s, by: by, now: now}
}

// Load reads the log to its head. Records that cannot be read or do not fit are left out and named in
// State.Problems, so that one bad object never hides the others.
func (c *Catalog) Load(ctx context.Context) (*State, error) {
	s, err := c.loadCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	err = c.advance(ctx, s)
	s.Entry("") // builds the index: from here on several goroutines may read the state
	return s, err
}

// advance reads the records after s.N.
func (c *Catalog) advance(ctx context.Context, s *State) error {
	last, gaps, err := c.find(ctx, s.N)
	if err != nil {
		return err
	}
	// A listing may be out of date; only "there is no such record" proves that this is the head.
	g, probing := errgroup.WithContext(ctx)
	var next []byte
	g.Go(func() (err error) {
		next, err = c.record(probing, last+1)
		return err
	})
	err = c.catchUp(ctx, s, last, gaps)
	if e := g.Wait(); err == nil {
		err = e
	}
	for err == nil && next != nil {
		s.apply(s.N+1, next)
		next, err = c.record(ctx, s.N+1)
	}
	return err
}

// find lists the records after number n: which is the last, and where many before it are missing.
func (c *Catalog) find(ctx context.Context, n int64) (last int64, gaps []gap, err error) {
	last = n
	for info, err := range c.store.List(ctx, "catalog/log/", recordKey(n)) {
		if err != nil {
			return 0, nil, fmt.Errorf("list the catalog: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(info.Key, "catalog/log/"), ".json")
		if n, err := strconv.ParseInt(name, 10, 64); err == nil && recordKey(n) == info.Key {
			if n > last+maxGap {
				gaps = append(gaps, gap{last, n})
			}
			last = max(last, n)
		}
	}
	return last, gaps, nil
}

// catchUp applies the records up to the last one that a listing shows.
func (c *Catalog) catchUp(ctx context.Context, s *State, last int64, gaps []gap) error {
	for s.N < last {
		to := min(last, s.N+64)
		if len(gaps) > 0 {
			if to = min(to, gaps[0].after); s.N == to {
				s.lose(gaps[0].before)
				gaps = gaps[1:]
				continue
			}
		}
		if err := c.fetch(ctx, s, to); err != nil {
			return err
		}
	}
	return nil
}

// record reads record n; nil when there is none. One that cannot be a record for its size is as an empty one.
func (c *Catalog) record(ctx context.Context, n int64) ([]byte, error) {
	data, err := storage.ReadAll(ctx, c.store, recordKey(n), maxState)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, nil
	case errors.Is(err, storage.ErrTooLarge):
		return []byte{}, nil
	case err != nil:
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	return data, nil
}

// gap says that the records between two are missing, and that they are many.
type gap struct{ after, before int64 }

// fetch applies the records up to number to, reading them at the same time.
func (c *Catalog) fetch(ctx context.Context, s *State, to int64) error {
	from := s.N + 1
	data, err := c.read(ctx, from, to)
	for i, d := range data {
		s.apply(from+int64(i), d)
	}
	return err
}

// read returns the records from..to as stored, nil for one that is missing.
func (c *Catalog) read(ctx context.Context, from, to int64) ([][]byte, error) {
	data := make([][]byte, to-from+1)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range data {
		g.Go(func() (err error) {
			data[i], err = c.record(ctx, from+int64(i)) // apply reports one that is missing
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return data, nil
}

// Append adds a record: build makes it from the state at the head of the log, and is called again with
// a newer state whenever another writer was faster. It refuses to write where the log is damaged or newer
// than this pgobj. The state returned includes the record.
func (c *Catalog) Append(ctx context.Context, s *State, build func(*State) (Record, error)) (*State, error) {
	for {
		if err := c.advance(ctx, s); err != nil {
			return s, err
		}
		if err := s.Writable(); err != nil {
			return s, err
		}
		r, err := build(s)
		if err != nil {
			return s, err
		}
		data, err := c.encode(s, r)
		if err != nil {
			return s, err
		}
		if err = c.create(ctx, s.N+1, data); errors.Is(err, storage.ErrExists) {
			continue
		}
		if err != nil {
			return s, fmt.Errorf("write %s record to the catalog: %w", r.Type, err)
		}
		s.apply(s.N+1, data)
		if s.N%checkpointEvery == 0 {
			// The record is written, and its writer must not be told otherwise: a checkpoint that fails
			// only leaves readers with more records to fetch.
			_ = c.checkpoint(ctx, s, s.wholeDue())
		}
		return s, nil
	}
}

// create writes record n. It is storage.ErrExists when another writer has written it, and readers can read that. A record
// of the same bytes is ours: no other process makes it, but a request may come twice (storage.PutOwn).
func (c *Catalog) create(ctx context.Context, n int64, data []byte) error {
	for try := 1; ; try++ {
		err := c.store.Put(ctx, recordKey(n), bytes.NewReader(data), int64(len(data)))
		if !errors.Is(err, storage.ErrExists) {
			return err
		}
		there, failed := c.record(ctx, n)
		switch {
		case failed != nil:
			return failed
		case bytes.Equal(there, data):
			return nil
		case there != nil:
			return err
		case !await(ctx, try):
			return &storage.Error{Op: "put", Key: recordKey(n), Store: c.store.String(), Kind: storage.KindTransient,
				Err: errors.Join(errors.New("the storage contradicts itself about this record: it exists, and it does not"), context.Cause(ctx))}
		}
	}
}

// await waits until a record that exists for writers may exist for readers, too: versitygw refuses a name a moment before
// it has the object. It is false when there was time enough for that (5 s in all), or ctx is over.
func await(ctx context.Context, try int) bool {
	if try > 9 {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(10 * time.Millisecond << (try - 1)):
		return true
	}
}

// encode makes r the record after state s. One that no reader would take is not written: it would end the log for all.
func (c *Catalog) encode(s *State, r Record) ([]byte, error) {
	r.Version, r.N, r.Prev, r.Time, r.By = Version, s.N+1, s.Head, c.now().UTC(), c.by
	data, err := seal(r)
	if err == nil && len(data) > r.limit() {
		err = fmt.Errorf("it has %d bytes, the limit is %d: do it in smaller steps", len(data), r.limit())
	}
	if err == nil {
		_, err = parse(data)
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s record, which is not written: %w", r.Type, err)
	}
	return data, nil
}

// parse decodes a stored record. It refuses what pgobj never writes, whoever has sealed it: what a record says becomes
// part of keys, is computed with, and is printed.
func parse(data []byte) (r Record, err error) {
	if err := unseal(data, &r); err != nil {
		return r, err
	}
	if most := r.limit(); len(data) > most {
		return r, fmt.Errorf("it has %d bytes, but such a record has at most %d", len(data), most)
	}
	return r, r.check()
}

// limit is how many bytes the record may have.
func (r *Record) limit() int {
	if r.Type == "rebuilt" {
		return maxState
	}
	return maxRecord
}

// sealSize is how long seal's addition is.
const sealSize = len(`,"self":""}`) + 2*sha256.Size

// seal encodes v, with the hash of what is before it as the last member. The next record's prev would
// betray a damaged one, but there is none after the newest, nor after a checkpoint.
func seal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	body := data[:len(data)-1]
	return fmt.Appendf(nil, `%s,"self":"%s"}`, body, sum(body)), nil
}

// unseal decodes what seal has made, and fails when a bit of it has changed.
func unseal(data []byte, v any) error {
	n := len(data) - sealSize
	if n < 0 || string(data[n:]) != fmt.Sprintf(`,"self":"%s"}`, sum(data[:n])) {
		return errors.New("it is damaged: it does not end with the hash of its content")
	}
	return decode(data, v)
}

// decode reads JSON with a format version, which is looked at first: what a newer version means by the
// other members may not even fit the types of this one, and must not count as damage.
func decode(data []byte, v any) error {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return err
	}
	if head.Version > Version {
		return fmt.Errorf("%w: it has format version %d", ErrNewer, head.Version)
	}
	return json.Unmarshal(data, v)
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

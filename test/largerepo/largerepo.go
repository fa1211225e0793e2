// Package largerepo makes up a repository of very many backups and very much WAL, for tests and benchmarks of what
// grows with them, and counts the requests. It owns how that repository looks. It refuses to have content: the catalog
// is real, manifests are empty objects, parts have a few bytes, and WAL can be listed and deleted only.
package largerepo

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore/segment"
)

const (
	systemID    = 7300000000000000001
	segmentSize = 16 << 20
	partSize    = 8 // what a large repository has of them shall fit into memory
)

// Repository is one server's.
type Repository struct {
	Store   *Store
	Catalog *catalog.Catalog
	now     time.Time
}

// Now is an hour after the newest backup has begun: what the catalog takes for the time.
func (r *Repository) Now() time.Time { return r.now }

// New makes one of n backups, at most 65,536, one an hour, each of which refers to a part of its own and to those of
// ten before it, and of this many WAL segments without a gap. At 10,000 backups the catalog's checkpoints alone have 410 MB of memory.
func New(ctx context.Context, n int, segments uint64) (*Repository, error) {
	r := &Repository{Store: &Store{Store: mem.New(), gone: make([]bool, segments+1)}, now: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)}
	r.Catalog = catalog.New(r.Store, "host/1/test", r.Now)
	state, err := r.Catalog.Load(ctx)
	if err != nil {
		return nil, err
	}
	add := func(record catalog.Record) {
		if err == nil {
			state, err = r.Catalog.Append(ctx, state, func(*catalog.State) (catalog.Record, error) { return record, nil })
		}
	}
	add(catalog.Record{Type: "server", Server: &catalog.Server{SystemID: systemID, PGVersion: 150004, SegmentSize: segmentSize}})
	var ids []string
	for i := range n {
		r.now = r.now.Add(time.Hour)
		ids = append(ids, catalog.NewID(r.now, [2]byte{byte(i >> 8), byte(i)}))
		b := r.backup(ids[max(0, i-10):], segment.LSN(1+uint64(i)*(segments-1)/uint64(n))*segmentSize)
		begin := &catalog.Begin{Backup: b.ID, SystemID: systemID, Timeline: 1, LSN: b.StartLSN, Reuses: ids[max(0, i-1):i]}
		add(catalog.Record{Type: "begin", Begin: begin})
		hash, putErr := r.put(ctx, b)
		if putErr != nil {
			return nil, putErr
		}
		add(catalog.Record{Type: "commit", Commit: &catalog.Commit{Backup: b.ID, SHA256: hash, Summary: b.Summary}})
	}
	if err != nil {
		return nil, fmt.Errorf("make a repository of %d backups: %w", n, err)
	}
	r.now = r.now.Add(time.Hour)
	return r, nil
}

// backup is the last one of ids, which refers to a part of each of them.
func (r *Repository) backup(ids []string, start segment.LSN) *catalog.Backup {
	b := &catalog.Backup{ID: ids[len(ids)-1], SegmentSize: segmentSize}
	for _, id := range ids {
		b.Parts = append(b.Parts, catalog.Part{Name: part.Name(id, 1, codec.Default), Size: partSize, Index: strings.Repeat("0", 64), Raw: 20 << 20, Live: 20 << 20})
	}
	first := segment.At(1, start, segmentSize).Name(segmentSize)
	b.Summary = catalog.Summary{SystemID: systemID, PGVersion: 150004, Started: r.now, Consistent: r.now.Add(time.Minute), Finished: r.now.Add(time.Minute), Timeline: 1,
		StartLSN: start, StopLSN: start + 100, FirstWAL: first, LastWAL: first, Size: 1 << 40, Files: 12345, Reused: 1 << 39, Stored: 8 << 20}
	return b
}

// put stores what a backup has stored itself.
func (r *Repository) put(ctx context.Context, b *catalog.Backup) (hash string, err error) {
	for key, size := range map[string]int64{catalog.ManifestKey(b.ID): 0, part.Key(b.Parts[len(b.Parts)-1].Name): partSize} {
		if err := r.Store.Put(ctx, key, bytes.NewReader(make([]byte, size)), size); err != nil {
			return "", err
		}
	}
	return r.Catalog.PutBackup(ctx, b)
}

// Package rebuild rebuilds a lost or damaged catalog from what is stored.
package rebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Fate is what a rebuilt catalog will say of a backup.
type Fate string

const (
	Back      Fate = "back"      // it is whole, and the log does not tell of it (any more)
	Described Fate = "described" // as Back, or listed; its backup.json or the list of its manifest is rebuilt
	Lost      Fate = "lost"      // it was listed, or has a description, but cannot be restored: it will not be listed
	Damaged   Fate = "damaged"   // it stays listed as it is, and what is wrong with it cannot be mended
	Unknown   Fate = "unknown"   // it has parts, and nothing that says what they are: they are left alone
)

// Found is a backup that a rebuilt catalog will say something new of, and why.
type Found struct {
	Backup string
	Fate   Fate
	Why    string

	listed bool
	b      *catalog.Backup
	hash   string   // of the backup.json that is stored; "": b has to be stored
	list   []byte   // of the manifest, when it has to be stored
	reuses []string // the other backups whose parts it needs
}

// Plan is the plan for a catalog that has lost records, or descriptions of backups.
type Plan struct {
	Records  int64    // of the log
	Problems []string // what of it cannot be read
	Found    []Found  // in the order of their ids
	Same     int      // backups that stay listed as they are

	store   storage.Store
	catalog *catalog.Catalog
	state   *catalog.State
	same    []Found
	sizes   map[string]int64 // of all parts
	shown   map[string]catalog.Described
}

// Empty says that there is nothing to do.
func (r *Plan) Empty() bool {
	return len(r.Problems) == 0 && !slices.ContainsFunc(r.Found, func(f Found) bool { return f.Fate == Back || f.Fate == Described || f.Fate == Lost && f.listed })
}

// NewPlan looks at all that describes backups, and at what there is of parts and WAL. Nothing is changed. What the
// log says of deletions that can be read holds: none of the backups that they took comes back.
func NewPlan(ctx context.Context, s storage.Store, c *catalog.Catalog) (*Plan, error) {
	state, err := c.Load(ctx)
	if err != nil {
		return nil, err
	}
	if state.Newer {
		return nil, state.Writable()
	}
	r := &Plan{Records: state.N, Problems: state.Problems, store: s, catalog: c, state: state, sizes: map[string]int64{}, shown: map[string]catalog.Described{}}
	ids := map[string]bool{}
	for p, err := range part.List(ctx, s, "") {
		if err != nil {
			return nil, err
		}
		r.sizes[p.Name] = p.Size
		ids[p.Backup] = true
	}
	described, err := c.Described(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, d := range described {
		r.shown[d.ID] = d
		ids[d.ID] = true
	}
	for _, e := range state.Complete() {
		ids[e.ID] = true
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if err := r.look(ctx, id); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// look decides about one backup. An error is one of the storage; a fault of the backup hides no other.
func (r *Plan) look(ctx context.Context, id string) error {
	e, d := r.state.Entry(id), r.shown[id]
	listed := e != nil && e.Status == catalog.Complete
	switch {
	case listed:
	case e != nil && (e.Status != catalog.Running || len(r.Problems) == 0):
		return nil // it runs, or the log knows that it failed or was deleted
	}
	f, err := r.examine(ctx, id, e)
	switch {
	case err == nil && listed && f.Fate == "":
		r.Same++
		f.b = &catalog.Backup{ID: id, Summary: f.b.Summary, SegmentSize: f.b.SegmentSize} // without its parts, which may be many
		r.same = append(r.same, f)
		return nil
	case err == nil:
	case !fault(err):
		return err
	case listed:
		f = Found{Backup: id, Fate: Damaged, Why: err.Error()}
		// A deletion of which the log does not tell any more would leave it so.
		if len(r.Problems) > 0 && (errors.Is(err, errGone) || !d.JSON && !d.Manifest) {
			f.Fate = Lost
		}
	case d.JSON || d.Manifest:
		f = Found{Backup: id, Fate: Lost, Why: err.Error()}
	default:
		f = Found{Backup: id, Fate: Unknown, Why: err.Error()}
	}
	f.listed = listed
	r.Found = append(r.Found, f)
	return nil
}

// errGone: something that the backup needs is not there, as after a deletion.
var errGone = errors.New("it cannot be restored")

// fault says whether an error is about what is stored, and not about the storage.
func fault(err error) bool {
	for _, is := range []error{errGone, catalog.ErrDamaged, catalog.ErrNewer, manifest.ErrDamaged, part.ErrDamaged, object.ErrDamaged, storage.ErrNotFound} {
		if errors.Is(err, is) {
			return true
		}
	}
	return storage.KindOf(err) == storage.KindOther
}

// examine finds or makes the description of a backup, and looks whether all that it needs is there. With Fate "" it
// is what the log says that it is.
func (r *Plan) examine(ctx context.Context, id string, e *catalog.Entry) (Found, error) {
	f := Found{Backup: id}
	var commit *catalog.Commit
	if e != nil {
		commit = e.Commit
	}
	b, hash, err := r.catalog.ReadBackup(ctx, id)
	if err == nil && commit != nil && hash != commit.SHA256 {
		err = fmt.Errorf("%w: its backup.json does not match the catalog's log", catalog.ErrDamaged)
	}
	if err != nil && (errors.Is(err, catalog.ErrNewer) || !fault(err)) {
		return f, err
	}
	if err != nil {
		b = nil
		f.Fate, f.Why = Described, "its backup.json is missing or damaged, and is made again from its manifest and the indexes of its parts; "+lostWithJSON
	}
	list, listErr := r.list(ctx, id, b)
	if listErr != nil {
		if errors.Is(listErr, manifest.ErrNewer) || !fault(listErr) {
			return f, listErr
		}
		if list, err = rebuildList(ctx, r.store, id, r.sizes); err != nil {
			return f, fmt.Errorf("%w; %w", listErr, err)
		}
		f.list = list
		f.Fate, f.Why = Described, "its manifest is missing or damaged, and is made again from the indexes of its parts"
	}
	if b == nil || f.list != nil {
		known := b
		if b, err = describeAnew(ctx, r.store, id, list, r.sizes, commit); err != nil {
			return f, err
		}
		if known != nil { // only the manifest was gone
			known.Manifest, known.Parts = b.Manifest, b.Parts
			b = known
		}
		hash = ""
	}
	f.b, f.hash = b, hash
	if commit == nil && f.Fate == "" {
		f.Fate, f.Why = Back, "its description, parts and WAL are complete"
	}
	return f, r.whole(ctx, &f, commit != nil)
}

// list is the stored list of a manifest, if it is what it should be.
func (r *Plan) list(ctx context.Context, id string, b *catalog.Backup) ([]byte, error) {
	data, err := storage.ReadAll(ctx, r.store, catalog.ManifestKey(id), manifest.MaxList)
	if err != nil {
		return nil, err
	}
	if b != nil && part.Sum(data).String() != b.Manifest.SHA256 {
		return nil, fmt.Errorf("%w: %s: its hash does not match backup.json", manifest.ErrDamaged, catalog.ManifestKey(id))
	}
	_, _, err = manifest.ReadList(data, id)
	return data, err
}

// whole looks whether parts and WAL are there. Of a backup that is listed in a log without faults only the parts
// count: WAL may have gone by a policy.
func (r *Plan) whole(ctx context.Context, f *Found, listed bool) error {
	parts, err := content.PartNumbers(f.b.Parts)
	if err != nil {
		return fmt.Errorf("%w: %w", catalog.ErrDamaged, err)
	}
	f.reuses = slices.DeleteFunc(slices.Sorted(maps.Keys(parts)), func(id string) bool { return id == f.Backup })
	var missing []string
	for _, p := range f.b.Parts {
		if size, there := r.sizes[p.Name]; there && size == p.Size {
			continue
		}
		switch info, err := r.store.Stat(ctx, part.Key(p.Name)); { // a listing alone proves nothing
		case errors.Is(err, storage.ErrNotFound), err == nil && info.Size != p.Size:
			missing = append(missing, p.Name)
		case err != nil:
			return err
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: parts are missing, %d of %d, the first is %s", errGone, len(missing), len(f.b.Parts), part.Key(missing[0]))
	}
	if listed {
		return nil
	}
	if err := r.state.CheckParts(parts); err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	if err := r.state.CheckWAL(f.b.Summary); err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	size := segment.Size(f.b.SegmentSize)
	if !size.Valid() {
		return fmt.Errorf("%w: its WAL segments of %d bytes are impossible", catalog.ErrDamaged, f.b.SegmentSize)
	}
	first, last := segment.At(f.b.Timeline, f.b.StartLSN, size), segment.Before(f.b.Timeline, f.b.StopLSN, size)
	gap, any, err := walstore.FirstMissing(ctx, r.store, f.b.SystemID, first, last, size)
	if err == nil && any {
		err = fmt.Errorf("%w: WAL segment %s, which makes it consistent, is missing", errGone, gap.Name(size))
	}
	return err
}

// Run does what the plan says: descriptions first, then one record of the log that takes the place of all before.
// When somebody has written to the log since the plan was made, the error is catalog.ErrMoved, and running it again
// goes on where this left off.
func (r *Plan) Run(ctx context.Context) error {
	next := r.state.Clone()
	// What a listed backup reuses, and its cluster, stood in records that may be lost. Deletions have to know it.
	for _, f := range r.same {
		next.Restored(f.b, f.hash, f.reuses)
	}
	for _, f := range r.Found {
		switch f.Fate {
		case Back, Described:
			hash := f.hash
			if f.list != nil {
				key := catalog.ManifestKey(f.Backup)
				err := r.store.Delete(ctx, key) // the damaged one
				if err == nil {
					err = storage.PutOwn(ctx, r.store, key, bytes.NewReader(f.list), int64(len(f.list)))
				}
				if err != nil {
					return fmt.Errorf("store the manifest of backup %s again: %w", f.Backup, err)
				}
			}
			if hash == "" {
				var err error
				if hash, err = r.catalog.ReplaceBackup(ctx, f.b); err != nil {
					return err
				}
			}
			next.Restored(f.b, hash, f.reuses)
		case Lost:
			next.Lost(f.Backup) // its parts may be needed by others: delete garbage takes those that are not
		}
	}
	return r.catalog.Rebuild(ctx, r.state, next)
}

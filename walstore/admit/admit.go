// Package admit decides which clusters' WAL a server's archive takes: those that the server's catalog knows, and before the
// catalog knows any, the one whose WAL came first. It refuses to enter a cluster in the catalog: that is a backup's to do.
//
// A cluster is known by its system identifier. pg_upgrade and initdb make a new one; so does a wrong --server, which is why
// WAL of an unknown one is refused. Nothing is lost by that: PostgreSQL keeps the files and asks again, and WAL from before
// a cluster's first backup is of no use to any restore.
package admit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/spool"
)

// ErrForeign: the archive is of another cluster. See ForeignError.
var ErrForeign = errors.New("WAL of another cluster")

// ForeignError says whose WAL was refused, and whose the archive takes. Nothing was stored.
type ForeignError struct {
	SystemID uint64
	Known    []uint64
	Store    string
}

func (e *ForeignError) Error() string {
	known := make([]string, len(e.Known))
	for i, id := range e.Known {
		known[i] = fmt.Sprint(id)
	}
	return fmt.Sprintf("%v: its system identifier is %d, and %s is of %s", ErrForeign, e.SystemID, e.Store, strings.Join(known, ", "))
}

func (e *ForeignError) Unwrap() error { return ErrForeign }

// firstLife is how long it is remembered that the archive took WAL of a cluster although no catalog knew it: a backup of another
// cluster may enter that one.
const firstLife = 5 * time.Minute

// Gate is the entrance to one server's archive.
type Gate struct {
	Store   storage.Store // rooted at the server's directory
	Catalog *catalog.Catalog
	Memory  *spool.Markers // on this host, so that only the first question costs requests; nil: there is none
	Log     *slog.Logger
}

// Admit returns nil when the archive takes WAL of the cluster, and a *ForeignError when it does not. Other errors say that this
// could not be found out. What Memory knows costs no request; else it is the loading of the catalog, and where that knows no
// cluster, a listing for each one in the archive.
func (g *Gate) Admit(ctx context.Context, systemID uint64) error {
	if g.Memory != nil && g.Memory.Admitted(systemID) {
		return nil
	}
	life, err := g.ask(ctx, systemID)
	if err != nil || g.Memory == nil {
		return err
	}
	if err := g.Memory.Admit(systemID, life); err != nil {
		g.Log.Debug("the catalog will be read again for the next file", "error", err)
	}
	return nil
}

// ask looks into the repository, and says for how long the answer is good.
func (g *Gate) ask(ctx context.Context, systemID uint64) (life time.Duration, err error) {
	state, err := g.Catalog.Load(ctx)
	if err != nil {
		return 0, fmt.Errorf("look up the owner of the archive: %w", err)
	}
	known := clusters(state)
	if slices.Contains(known, systemID) {
		return spool.AdmittedLife, nil
	}
	if len(known) > 0 && state.Writable() == nil {
		return 0, &ForeignError{systemID, known, g.Store.String()}
	}
	// The catalog is empty, or cannot be read in full: archiving goes on with what there is.
	archived, err := walstore.Incarnations(ctx, g.Store)
	if err != nil {
		return 0, fmt.Errorf("look up the owner of the archive: %w", err)
	}
	if known = append(known, archived...); len(known) == 0 || slices.Contains(known, systemID) {
		return firstLife, nil
	}
	return 0, &ForeignError{systemID, known, g.Store.String()}
}

// clusters are the system identifiers that a log of records names. Backups name theirs, too: a record of the server may be lost.
func clusters(s *catalog.State) (ids []uint64) {
	for _, server := range s.Servers {
		ids = append(ids, server.SystemID)
	}
	for _, e := range s.Entries {
		ids = append(ids, e.Begin.SystemID)
	}
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id uint64) bool { return id == 0 })
}

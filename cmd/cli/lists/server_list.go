package lists

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/retry"
)

// ServerList shows every server that has a directory below --storage. A catalog that cannot be read is named in
// its own line and hides no other, so it is no failure of the command.
type ServerList struct {
	Servers []string `arg:"" optional:"" name:"server" help:"Only these servers (default: all in the storage)."`
	Sizes   bool     `name:"sizes" help:"Also show the size of each server's objects. This lists all of them, with one request for every thousand."`
	JSON    bool     `name:"json" help:"Print JSON: an array of objects, one for each server."`
}

// ServerEntry is a server as --json prints it.
type ServerEntry struct {
	Server    string         `json:"server"`
	SystemID  uint64         `json:"system_id,string,omitempty"` // of the newest incarnation
	PGVersion int            `json:"pg_version,omitempty"`
	Backups   int            `json:"backups"` // complete ones
	Running   int            `json:"running"` // begun after the last one, neither complete nor failed
	Failed    int            `json:"failed"`  // since the last one
	Last      string         `json:"last_backup,omitempty"`
	Finished  time.Time      `json:"last_finished,omitzero"`
	Size      int64          `json:"last_size,omitempty"`
	Stored    int64          `json:"last_stored,omitempty"`
	Oldest    time.Time      `json:"oldest_restorable,omitzero"` // when the oldest of the backups is consistent
	Usage     *catalog.Usage `json:"usage,omitempty"`            // with --sizes
	Problems  []string       `json:"problems,omitempty"`         // what of the catalog is damaged, or could not be read
	empty     bool
	missing   bool // there is nothing of it at all
}

// serversAtOnce is how many catalogs are read at the same time; each reads several records at once.
const serversAtOnce = 16

func (c *ServerList) Run(ctx context.Context, a *app.App) error {
	root, err := a.Root(retry.Policy{})
	if err != nil {
		return err
	}
	entries := []*ServerEntry{}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(serversAtOnce)
	for name, err := range c.names(gctx, root) {
		if err != nil {
			_ = group.Wait()
			return err
		}
		e := &ServerEntry{Server: name}
		entries = append(entries, e)
		group.Go(func() error { return c.read(gctx, a, storage.Sub(root, name), e) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	switch {
	case c.JSON:
		err = show.JSON(a.Out, entries)
	case len(entries) == 0:
		fmt.Fprintf(a.Err, "the storage has no server: %s\n", root)
	default:
		err = c.table(a, entries)
	}
	return cmp.Or(err, missing(entries, root))
}

// missing is an error that names those of which there is nothing.
func missing(entries []*ServerEntry, root storage.Store) error {
	var names []string
	for _, e := range entries {
		if e.missing {
			names = append(names, e.Server)
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("%w: %[3]s has nothing of server %[2]s", app.ErrNoServer, strings.Join(names, ", "), root)
}

func (c *ServerList) names(ctx context.Context, root storage.Store) func(func(string, error) bool) {
	if len(c.Servers) == 0 {
		return catalog.Servers(ctx, root)
	}
	return func(yield func(string, error) bool) {
		for _, name := range c.Servers {
			var err error
			if bad := catalog.CheckServer(name); bad != nil {
				err = app.Usagef("server %q: %v", name, bad)
			}
			if !yield(name, err) {
				return
			}
		}
	}
}

// read fills in what a server's catalog tells. Only an interruption is an error: other servers are to be shown.
func (c *ServerList) read(ctx context.Context, a *app.App, store storage.Store, e *ServerEntry) error {
	state, err := a.Catalog(store).Load(ctx)
	if err == nil {
		e.take(state)
	}
	if err == nil && e.empty {
		var exists bool
		exists, err = catalog.Exists(ctx, store)
		e.missing = err == nil && !exists
	}
	if err == nil && c.Sizes {
		var u catalog.Usage
		if u, err = catalog.Used(ctx, store); err == nil {
			e.Usage = &u
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		e.Problems = append(e.Problems, err.Error())
	}
	return nil
}

func (e *ServerEntry) take(s *catalog.State) {
	e.Problems = s.Problems
	e.empty = s.N == 0
	if s.Newer {
		e.Problems = append(e.Problems, catalog.ErrNewer.Error())
	}
	if n := len(s.Servers); n > 0 {
		e.SystemID, e.PGVersion = s.Servers[n-1].SystemID, s.Servers[n-1].PGVersion
	}
	for _, b := range s.Unfinished() {
		if b.Status == catalog.Running {
			e.Running++
		} else {
			e.Failed++
		}
	}
	for _, b := range s.Complete() {
		e.Backups++
		sum := b.Commit.Summary
		e.Last, e.Finished, e.Size, e.Stored = b.ID, sum.Finished, sum.Size, sum.Stored
		if e.Oldest.IsZero() || sum.Consistent.Before(e.Oldest) {
			e.Oldest = sum.Consistent
		}
	}
}

func (c *ServerList) table(a *app.App, entries []*ServerEntry) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "SERVER\tSYSTEM ID\tPG\tBACKUPS\tLAST BACKUP\tAGE\tSIZE\tRESTORABLE FROM (UTC)\t")
	if c.Sizes {
		fmt.Fprint(w, "PARTS\tWAL\tCATALOG\tTOTAL\t")
	}
	fmt.Fprintln(w, "NOTE")
	for _, e := range entries {
		cells := make([]string, 8, 13)
		cells[0], cells[3] = e.Server, fmt.Sprint(e.Backups)
		if e.SystemID != 0 {
			cells[1], cells[2] = fmt.Sprint(e.SystemID), show.PGVersion(e.PGVersion)
		}
		if e.Last != "" {
			cells[4], cells[5], cells[6], cells[7] = e.Last, show.Age(a.Now().Sub(e.Finished)), show.Size(e.Size), e.Oldest.UTC().Format(time.DateTime)
		}
		switch u := e.Usage; {
		case u != nil:
			cells = append(cells, show.Size(u.Parts), show.Size(u.WAL), show.Size(u.Catalog), show.Size(u.Total))
		case c.Sizes:
			cells = append(cells, "", "", "", "")
		}
		fmt.Fprintln(w, strings.Join(append(cells, e.note()), "\t"))
	}
	return w.Flush()
}

func (e *ServerEntry) note() string {
	var notes []string
	if n := len(e.Problems); n > 0 {
		first, _, _ := strings.Cut(e.Problems[0], "\n")
		if n > 1 {
			first += fmt.Sprintf(" (and %d more)", n-1)
		}
		notes = append(notes, "CATALOG: "+first)
	}
	switch {
	case e.missing:
		notes = append(notes, "no such server")
	case e.empty:
		notes = append(notes, "it has no catalog")
	}
	if e.Failed > 0 {
		notes = append(notes, fmt.Sprintf("%d FAILED since", e.Failed))
	}
	if e.Running > 0 {
		notes = append(notes, fmt.Sprintf("%d running, or killed", e.Running))
	}
	return strings.Join(notes, "; ")
}

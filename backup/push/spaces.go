package push

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
)

// checkTablespaces sees to it that the data of every tablespace can be seen here, before all the others are copied. The
// server is asked a second time, as one may have been dropped a moment ago.
func (p *push) checkTablespaces(ctx context.Context) error {
	for try := range 2 {
		i := slices.IndexFunc(p.info.Tablespaces, func(t catalog.Tablespace) bool {
			_, err := os.Stat(filepath.Join(p.PGDATA, datadir.SpacePath(t.OID), p.walkOptions(nil).VersionDir()))
			return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
		})
		if i < 0 {
			return nil
		}
		if try > 0 {
			return unseen(p.info.Tablespaces[i], "there is no directory "+p.walkOptions(nil).VersionDir())
		}
		var err error
		if p.info, err = p.Session.Info(ctx); err != nil {
			return err
		}
	}
	return nil
}

func unseen(t catalog.Tablespace, why string) error {
	return fmt.Errorf("%w: tablespace %s, at %s: %s", backup.ErrUnseen, t.Name, cmp.Or(t.Location, datadir.SpacePath(t.OID)), why)
}

// noteTablespace notes a tablespace that the walk comes to.
func (p *push) noteTablespace(e datadir.Entry) {
	if oid, err := strconv.ParseUint(path.Base(e.Path), 10, 32); err == nil { // else PostgreSQL did not make it
		p.seenTablespaces[uint32(oid)] = e
	}
}

// listTablespaces enters every tablespace that a restore needs a place for: those that the walk has met, those
// that recovery makes links for (tablespace_map), and those that there are in the end. The list from before the
// start lacks what was created since, and has what was dropped: with it alone, some of them cannot be restored. One that there still is and whose data the walk did not see ends the
// backup: it would look complete, and retention let go of those that have the data.
func (p *push) listTablespaces() error {
	at, names, taken := map[uint32]string{}, map[uint32]string{}, map[string]bool{}
	for _, t := range p.stop.Tablespaces {
		if why := p.seenTablespaces[t.OID].Unseen; why != "" {
			return unseen(t, why)
		}
		at[t.OID], names[t.OID], taken[t.Name] = t.Location, t.Name, true
	}
	maps.Copy(at, datadir.Mapped(string(p.stop.TablespaceMap)))
	for oid, e := range p.seenTablespaces {
		if at[oid] = e.Link; e.Link != "" && !filepath.IsAbs(e.Link) { // made by hand: a link counts from its own directory
			at[oid] = filepath.Join(p.PGDATA, "pg_tblspc", e.Link)
		}
		if e.Unseen != "" {
			p.warn(e.Path, "the server does not know this tablespace, and its data cannot be seen: "+e.Unseen)
		}
	}
	known := map[uint32]bool{}
	for _, t := range p.info.Tablespaces {
		known[t.OID] = true
		if names[t.OID] == "" && !taken[t.Name] { // dropped meanwhile, and perhaps another has its name now
			names[t.OID] = t.Name
		}
	}
	for _, oid := range slices.Sorted(maps.Keys(at)) {
		t := catalog.Tablespace{OID: oid, Name: names[oid], Location: at[oid]}
		if t.Name == "" {
			t.Name = strconv.FormatUint(uint64(oid), 10)
		}
		p.backup.Tablespaces = append(p.backup.Tablespaces, t)
	}
	for _, t := range p.stop.Tablespaces {
		if !known[t.OID] && t.Location != "" {
			p.warn(datadir.SpacePath(t.OID), fmt.Sprintf("tablespace %s was created during this backup: recovery may create it at %s again and ignore --tablespace. To restore it to another place, use the next backup", t.Name, t.Location))
		}
	}
	return nil
}

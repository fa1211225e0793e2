package app

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/admit"
	"github.com/pgobj/pgobj/walstore/spool"
)

func IdentityOf(path string) (spool.Identity, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return spool.Identity{}, false
	}
	return spool.IdentityOf(info)
}

// scope binds what is in the spool to one repository, one server in it, and one cluster; and to one data
// directory, as a copy of it is another server.
func (a *App) scope(sysid uint64, dataDir string, more ...string) (string, error) {
	id, ok := IdentityOf(dataDir)
	if !ok {
		return "", errors.New("this system cannot identify files")
	}
	return spool.Scope(append([]string{a.Storage, a.S3Endpoint, a.S3Region, a.Server, strconv.FormatUint(sysid, 10),
		fmt.Sprint(id.Device), fmt.Sprint(id.Inode)}, more...)...), nil
}

// Markers are those of a cluster in a spool.
func (a *App) Markers(dir, dataDir string, control datadir.Control) (*spool.Markers, error) {
	scope, err := a.scope(control.SystemID, dataDir)
	if err != nil {
		return nil, err
	}
	return spool.NewMarkers(dir, scope), nil
}

// Gate keeps other clusters' WAL out of the server's archive. memory may be nil.
func (a *App) Gate(s storage.Store, memory *spool.Markers) *admit.Gate {
	return &admit.Gate{Store: s, Catalog: a.Catalog(s), Memory: memory, Log: a.Log}
}

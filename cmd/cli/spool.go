package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/owned"
	"github.com/pgobj/pgobj/walstore/admit"
	"github.com/pgobj/pgobj/walstore/spool"
)

// spoolFlag is the directory on this host that wal-push and wal-fetch work ahead with.
type spoolFlag struct {
	Spool string `name:"spool" env:"PGOBJ_WAL_SPOOL" placeholder:"DIR" help:"Folder for what is pushed or fetched ahead (default: pgsql_tmp_pgobj in the data folder, which base backups leave out). Nobody but its owner may write to it."`
}

// dir is the spool of the server on a data directory, which need not exist yet; "" when there can be none for this process: a process
// of another user than the server's (root's) would make files there that the server cannot read, and what another user
// could have written is not believed, which is logged. The work is then done without.
func (f spoolFlag) dir(a *app, dataDir string) (string, error) {
	dir := f.Spool
	if dir == "" {
		var err error
		if dir, err = filepath.Abs(filepath.Join(dataDir, spool.Folder)); err != nil {
			return "", err
		}
	}
	if !filepath.IsAbs(dir) {
		return "", usagef("--spool (PGOBJ_WAL_SPOOL) is %q: use an absolute path", f.Spool)
	}
	if id, ok := identityOf(dataDir); !ok || int64(id.OwnerID) != int64(os.Geteuid()) {
		a.log.Debug("the spool is left alone: the data directory belongs to another user", "spool", dir)
		return "", nil
	}
	if err := owned.Dir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("the spool is not used: make it the server's user's own, of mode 0700, or give another one with --spool", "error", err)
		return "", nil
	}
	return dir, nil
}

func identityOf(path string) (spool.Identity, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return spool.Identity{}, false
	}
	return spool.IdentityOf(info)
}

// scope binds what is in the spool to one repository, one server in it, and one cluster; and to one data
// folder, as a copy of it is another server.
func (a *app) scope(sysid uint64, dataDir string, more ...string) (string, error) {
	id, ok := identityOf(dataDir)
	if !ok {
		return "", errors.New("this system does not tell files apart")
	}
	return spool.Scope(append([]string{a.Storage, a.S3Endpoint, a.S3Region, a.Server, strconv.FormatUint(sysid, 10),
		fmt.Sprint(id.Device), fmt.Sprint(id.Inode)}, more...)...), nil
}

// markers are those of a cluster in a spool.
func (a *app) markers(dir, dataDir string, control datadir.Control) (*spool.Markers, error) {
	scope, err := a.scope(control.SystemID, dataDir)
	if err != nil {
		return nil, err
	}
	return spool.NewMarkers(dir, scope), nil
}

// gate keeps other clusters' WAL out of the server's archive. memory may be nil.
func (a *app) gate(s storage.Store, memory *spool.Markers) *admit.Gate {
	return &admit.Gate{Store: s, Catalog: a.catalog(s), Memory: memory, Log: a.log}
}

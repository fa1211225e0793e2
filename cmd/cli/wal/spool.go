package wal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/storage/owned"
	"github.com/pgobj/pgobj/walstore/spool"
)

// spoolFlag is the directory on this host that wal-push and wal-fetch work ahead with.
type spoolFlag struct {
	Spool string `name:"spool" env:"PGOBJ_WAL_SPOOL" placeholder:"DIR" help:"Directory for WAL that is pushed or fetched ahead (default: pgsql_tmp_pgobj in the data directory, which base backups leave out). Only its owner may write to it."`
}

// dir is the spool of the server on a data directory, which need not exist yet; "" when there can be none for this process: a process
// of another user than the server's (root's) would make files there that the server cannot read, and what another user
// could have written is not believed, which is logged. The work is then done without.
func (f spoolFlag) dir(a *app.App, dataDir string) (string, error) {
	dir := f.Spool
	if dir == "" {
		var err error
		if dir, err = filepath.Abs(filepath.Join(dataDir, spool.Directory)); err != nil {
			return "", err
		}
	}
	if !filepath.IsAbs(dir) {
		return "", app.Usagef("--spool (PGOBJ_WAL_SPOOL) is %q: use an absolute path", f.Spool)
	}
	if id, ok := app.IdentityOf(dataDir); !ok || int64(id.OwnerID) != int64(os.Geteuid()) {
		a.Log.Debug("the spool is not used: the data directory belongs to another user", "spool", dir)
		return "", nil
	}
	if err := owned.Dir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Log.Warn("the spool is not used: chown it to the server's user with mode 0700, or give another directory with --spool", "error", err)
		return "", nil
	}
	return dir, nil
}

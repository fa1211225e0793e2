package wal

import (
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/walstore/ahead"
)

// spoolFlag is the directory on this host that wal-push and wal-fetch work ahead with.
type spoolFlag struct {
	Spool string `name:"spool" env:"PGOBJ_WAL_SPOOL" placeholder:"DIR" help:"Directory for WAL that is pushed or fetched ahead (default: pgsql_tmp_pgobj in the data directory, which base backups leave out). Only its owner may write to it."`
}

// look is the one look at the cluster that a path belongs to. Its Err is datadir.ErrNone where there is no data directory.
func (f spoolFlag) look(a *app.App, path string) (*ahead.Host, error) {
	dataDir, err := datadir.Of(path, os.Getenv("PGDATA"))
	if err != nil {
		return &ahead.Host{Archive: a.Ahead(), Err: err}, nil
	}
	return f.lookAt(a, dataDir)
}

// lookAt is it for a data directory that is known.
func (f spoolFlag) lookAt(a *app.App, dataDir string) (*ahead.Host, error) {
	if f.Spool != "" && !filepath.IsAbs(f.Spool) {
		return &ahead.Host{Data: dataDir}, app.Usagef("--spool (PGOBJ_WAL_SPOOL) is %q: use an absolute path", f.Spool)
	}
	return a.Ahead().Look(dataDir, f.Spool), nil
}

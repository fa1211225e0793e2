package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pgobj/pgobj/walstore/spool"
)

// spoolFlag is the folder on this host that wal-push and wal-fetch work ahead with.
type spoolFlag struct {
	Spool string `name:"spool" env:"PGOBJ_WAL_SPOOL" placeholder:"DIR" help:"Folder for what is pushed or fetched ahead (default: pgsql_tmp_pgobj in the data folder, which base backups leave out)."`
}

func (f spoolFlag) dir(dataDir string) (string, error) {
	if f.Spool == "" {
		return filepath.Abs(filepath.Join(dataDir, spool.Folder))
	}
	if !filepath.IsAbs(f.Spool) {
		return "", usagef("--spool (PGOBJ_WAL_SPOOL) is %q: use an absolute path", f.Spool)
	}
	return f.Spool, nil
}

// scope binds what is in the spool to one repository, one server in it, and one cluster; and to one data
// folder, as a copy of it is another server.
func (a *app) scope(sysid uint64, dataDir string, more ...string) (string, error) {
	info, err := os.Stat(dataDir)
	if err != nil {
		return "", err
	}
	id, ok := spool.IdentityOf(info)
	if !ok {
		return "", errors.New("this system does not tell files apart")
	}
	return spool.Scope(append([]string{a.Storage, a.S3Endpoint, a.S3Region, a.Server, strconv.FormatUint(sysid, 10),
		fmt.Sprint(id.Device), fmt.Sprint(id.Inode)}, more...)...), nil
}

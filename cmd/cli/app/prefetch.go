package app

import (
	"errors"
	"strconv"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/walstore/spool"
)

// Window is that of the server that runs on a data directory: of this run of it, so that nothing of an earlier
// restore is ever taken.
func (a *App) Window(dir, dataDir string, control datadir.Control) (*spool.Window, error) {
	if err := MayWorkAhead(dataDir); err != nil {
		return nil, err
	}
	if !Recovering(dataDir) {
		return nil, errors.New("the server in the data directory is not in recovery")
	}
	pid, started, _ := RunningPostmaster(dataDir)
	scope, err := a.scope(control.SystemID, dataDir, strconv.Itoa(pid), started)
	if err != nil {
		return nil, err
	}
	return spool.NewWindow(dir, scope), nil
}

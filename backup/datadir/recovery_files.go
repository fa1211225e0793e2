package datadir

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// The files in a data directory that make its server recover from the archive, or follow another one for ever: the server removes
// or renames them when its recovery has ended.
const (
	RecoverySignal = "recovery.signal"
	StandbySignal  = "standby.signal"
	RecoveryConf   = "recovery.conf" // up to 11, with its settings
)

// Recovering says whether the server on a data directory restores from the archive, or follows another; for one that does not
// run, whether it will.
func Recovering(dataDir string) bool {
	return slices.ContainsFunc([]string{RecoverySignal, StandbySignal, RecoveryConf}, func(name string) bool {
		return Exists(filepath.Join(dataDir, name))
	})
}

// IsStandby says whether the server on a data directory follows another for ever. "" is no data directory.
func IsStandby(dataDir string) bool {
	if dataDir == "" {
		return false
	}
	if Exists(filepath.Join(dataDir, StandbySignal)) {
		return true
	}
	conf, err := os.ReadFile(filepath.Join(dataDir, RecoveryConf))
	return err == nil && regexp.MustCompile(`(?im)^[ \t]*standby_mode[ \t]*=?[ \t]*'?(on|true|yes|1)`).Match(conf)
}

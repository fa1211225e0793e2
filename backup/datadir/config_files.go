package datadir

import (
	"path/filepath"
)

// IsAccess knows the files with access rules, which are no settings.
func IsAccess(file string) bool {
	return filepath.Base(file) == "pg_hba.conf" || filepath.Base(file) == "pg_ident.conf"
}

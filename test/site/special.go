package site

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/catalog"
)

// BackupJSON is what the repository says of a backup.
func (s *Site) BackupJSON(t testing.TB, id string) (b catalog.Backup) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Directory, "main", "backups", id, "backup.json"))
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

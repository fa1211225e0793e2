package site

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/catalog"
)

// Torture is whether the long forms of tests run: make torture.
func Torture() bool { return os.Getenv("PGOBJ_TORTURE") != "" }

// ReuseFigures are what backup-list --json tells of reuse.
type ReuseFigures struct {
	Backup string `json:"backup"`
	Size   int64  `json:"size"`
	Read   int64  `json:"read"`
	Reused int64  `json:"reused"`
	Stored int64  `json:"stored"`
}

func (s *Site) Reuse(t testing.TB, args ...string) (f ReuseFigures) {
	t.Helper()
	o := s.Must(t, append([]string{"backup-push", "--json", "--wal-timeout=10m"}, args...)...)
	if err := json.Unmarshal([]byte(o.Out), &f); err != nil {
		t.Fatalf("backup-push --json: %v in %v", err, o)
	}
	return f
}

// cost is what backup-verify tells about a restore.
type cost struct {
	Bytes         int64   `json:"bytes"`
	Fetched       int64   `json:"fetched"`
	Amplification float64 `json:"amplification"`
}

func (s *Site) Cost(t testing.TB, backup string) cost {
	t.Helper()
	var all []cost
	o := s.Must(t, "backup-verify", "--json", backup)
	if err := json.Unmarshal([]byte(o.Out), &all); err != nil || len(all) != 1 {
		t.Fatalf("backup-verify --json: %v in %v", err, o)
	}
	return all[0]
}

// PartBytes is the size of all parts that a backup refers to.
func (s *Site) PartBytes(t testing.TB, backup string) (sum int64) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Directory, "main", "backups", backup, "backup.json"))
	if err != nil {
		t.Fatal(err)
	}
	var b catalog.Backup
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	for _, p := range b.Parts {
		sum += p.Size
	}
	return sum
}

package datadir

import (
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/walstore/segment"
)

// ReadHistory is the history of a timeline as the server has it in its pg_wal. The error is fs.ErrNotExist when there is none
// (as for timeline 1).
func ReadHistory(dir string, tli segment.Timeline) (segment.Lineage, error) {
	data, err := os.ReadFile(filepath.Join(dir, "pg_wal", segment.HistoryName(tli)))
	if err != nil {
		return nil, err
	}
	return segment.ParseHistory(tli, data)
}

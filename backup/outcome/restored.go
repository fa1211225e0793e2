package outcome

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/target"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// ErrNotRestored says that a directory does not hold what a restore leaves.
var ErrNotRestored = errors.New("not a restored data directory")

// RestoredFile is where a restore leaves what its recovery is expected to do. It lies in pg_wal because nothing
// else looks at such a file there: neither pg_verifybackup nor any base backup.
const RestoredFile = "pg_wal/pgobj_restore.json"

const RestoredVersion = 1

// Restored is what a restore leaves in the data directory about itself, for CheckRestore.
type Restored struct {
	Version     int           `json:"version"`
	Backup      string        `json:"backup"`
	SystemID    uint64        `json:"system_id,string"`
	SegmentSize segment.Size  `json:"wal_segment_size"`
	Time        time.Time     `json:"time"`   // when it was restored
	Goal        string        `json:"goal"`   // how far recovery is to go, in words
	ToTheEnd    bool          `json:"to_end"` // there is no target
	Standby     bool          `json:"standby,omitempty"`
	LSN         segment.LSN   `json:"target_lsn,omitzero"` // of a target that is one, or the backup's end
	Exclusive   bool          `json:"exclusive,omitempty"`
	Action      string        `json:"target_action,omitempty"`
	Path        timeline.Path `json:"path"`                // empty: no recovery was set up
	End         segment.LSN   `json:"wal_end,omitzero"`    // of the WAL that the archive had
	Last        string        `json:"wal_last,omitzero"`   // its last segment
	Databases   []string      `json:"databases,omitempty"` // of the backup, as far as it knows them
	Received    bool          `json:"received,omitempty"`  // End is that of what was received of the next one, which recovery gets
}

// ReadRestored reads what a restore has left in a data directory.
func ReadRestored(dir string) (*Restored, error) {
	if datadir.Exists(filepath.Join(dir, target.Marker)) {
		return nil, fmt.Errorf("%w: %s has an unfinished restore", ErrNotRestored, dir)
	}
	data, err := os.ReadFile(filepath.Join(dir, RestoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no %s, which backup-fetch writes", ErrNotRestored, dir, RestoredFile)
	}
	if err != nil {
		return nil, err
	}
	var r Restored
	if err := json.Unmarshal(data, &r); err != nil || r.Version != RestoredVersion || !r.SegmentSize.Valid() {
		return nil, fmt.Errorf("%w: cannot parse %s of %s (%v)", ErrNotRestored, RestoredFile, dir, err)
	}
	return &r, nil
}

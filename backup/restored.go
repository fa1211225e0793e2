package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrNotRestored says that a folder does not hold what a restore leaves.
var ErrNotRestored = errors.New("not a restored data directory")

// restoredFile is where a restore leaves what its recovery is expected to do. It lies in pg_wal because nothing
// else looks at such a file there: neither pg_verifybackup nor any base backup.
const restoredFile = "pg_wal/pgobj_restore.json"

const restoredVersion = 1

// Restored is what a restore leaves in the data directory about itself, for CheckRestore.
type Restored struct {
	Version     int          `json:"version"`
	Backup      string       `json:"backup"`
	SystemID    uint64       `json:"system_id,string"`
	SegmentSize segment.Size `json:"wal_segment_size"`
	Time        time.Time    `json:"time"`   // when it was restored
	Goal        string       `json:"goal"`   // how far recovery is to go, in words
	ToTheEnd    bool         `json:"to_end"` // there is no target
	Standby     bool         `json:"standby,omitempty"`
	LSN         segment.LSN  `json:"target_lsn,omitzero"` // of a target that is one, or the backup's end
	Exclusive   bool         `json:"exclusive,omitempty"`
	Action      string       `json:"target_action,omitempty"`
	Path        []Leg        `json:"path"`                // empty: no recovery was set up
	End         segment.LSN  `json:"wal_end,omitzero"`    // of the WAL that the archive had
	Last        string       `json:"wal_last,omitzero"`   // its last segment
	Databases   []string     `json:"databases,omitempty"` // of the backup, as far as it knows them
	Received    bool         `json:"received,omitempty"`  // End is that of what was received of the next one, which recovery gets
}

// restored describes what the plan does.
func (p *Plan) restored(now time.Time) Restored {
	b, r := p.Backup, p.Recovery
	x := Restored{Version: restoredVersion, Backup: b.ID, SystemID: b.SystemID, SegmentSize: segment.Size(b.SegmentSize), Time: now.UTC(), Goal: r.Goal(),
		ToTheEnd: r.toTheEnd(), Standby: r.Standby, LSN: r.TargetLSN, Exclusive: r.Exclusive, Path: p.Path, End: p.WAL.End, Last: p.WAL.Last}
	x.Received = p.WAL.Received && slices.ContainsFunc(p.written.Recovery, func(s Setting) bool {
		return s.Name == "restore_command" && strings.Contains(s.Value, receivedFlag)
	})
	for _, db := range b.Databases {
		x.Databases = append(x.Databases, db.Name)
	}
	if !x.ToTheEnd {
		x.Action = r.TargetAction
	}
	if r.TargetImmediate {
		x.LSN = b.StopLSN
	}
	return x
}

func (p *Plan) writeRestored() error {
	data, err := json.MarshalIndent(p.restored(time.Now()), "", " ")
	if err != nil {
		return err
	}
	return p.target.writeFile(restoredFile, append(data, '\n'))
}

// ReadRestored reads what a restore has left in a data directory.
func ReadRestored(dir string) (*Restored, error) {
	if exists(filepath.Join(dir, marker)) {
		return nil, fmt.Errorf("%w: %s holds a restore that did not end", ErrNotRestored, dir)
	}
	data, err := os.ReadFile(filepath.Join(dir, restoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s has no %s, which backup-fetch leaves", ErrNotRestored, dir, restoredFile)
	}
	if err != nil {
		return nil, err
	}
	var r Restored
	if err := json.Unmarshal(data, &r); err != nil || r.Version != restoredVersion || !r.SegmentSize.Valid() {
		return nil, fmt.Errorf("%w: %s of %s cannot be understood (%v)", ErrNotRestored, restoredFile, dir, err)
	}
	return &r, nil
}

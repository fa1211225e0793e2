package restore

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/outcome"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/walstore/segment"
)

// restored describes what the plan does.
func (p *Plan) restored(now time.Time) outcome.Restored {
	b, r := p.Backup, p.Recovery
	x := outcome.Restored{Version: outcome.RestoredVersion, Backup: b.ID, SystemID: b.SystemID, SegmentSize: segment.Size(b.SegmentSize), Time: now.UTC(), Goal: r.Goal(),
		ToTheEnd: r.ToTheEnd(), Standby: r.Standby, LSN: r.TargetLSN, Exclusive: r.Exclusive, Path: p.Path, End: p.WAL.End, Last: p.WAL.Last}
	x.Received = p.WAL.Received && slices.ContainsFunc(p.written.Recovery, func(s recovery.Setting) bool {
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
	return p.target.WriteFile(outcome.RestoredFile, append(data, '\n'))
}

package app

import (
	"slices"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
)

// AffectedBackup is a backup that a missing or damaged segment is in the way of.
type AffectedBackup struct {
	Backup  string `json:"backup"`
	Segment string `json:"segment"`
	Usable  bool   `json:"usable"` // it can be restored, but not recovered past the segment
}

// Unread: nobody reads the piece any more.
func (r Archive) Unread(p object.Piece) bool {
	return slices.ContainsFunc(r.Surveys, func(s *survey.Survey) bool { return s.Unread(p) })
}

// Missing is the first segment that the backup itself needs and the archive does not have.
func (r Archive) Missing(id string, b catalog.Summary) AffectedBackup {
	if b.From == "offline" { // what it needs is among its files
		return AffectedBackup{}
	}
	i := slices.IndexFunc(r.Surveys, func(s *survey.Survey) bool { return s.Timeline == b.Timeline && len(s.Runs) > 0 })
	if i < 0 {
		return AffectedBackup{Backup: id, Segment: b.FirstWAL}
	}
	size := r.Surveys[i].SegmentSize
	first, err1 := segment.ParseName(b.FirstWAL, size)
	last, err2 := segment.ParseName(b.LastWAL, size)
	if err1 != nil || err2 != nil {
		return AffectedBackup{}
	}
	end, ok := survey.Reach(r.Surveys, b.Timeline, first.No, r.Surveys[i])
	switch {
	case !ok:
		return AffectedBackup{Backup: id, Segment: b.FirstWAL}
	case end.No < last.No:
		return AffectedBackup{Backup: id, Segment: end.Next().Name(size)}
	}
	return AffectedBackup{}
}

// Descendants are the timelines that recovery of a backup can get to.
func (r Archive) Descendants(b catalog.Summary) []segment.Timeline {
	return survey.Tree(r.Surveys).WithAncestors().Descendants(b.Timeline, b.StopLSN)
}

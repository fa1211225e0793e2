package app

import (
	"time"

	"github.com/pgobj/pgobj/catalog"
)

// Listed is one backup as --json prints it. One that is not complete has only what is known of its start.
type Listed struct {
	Backup string         `json:"backup"`
	Status catalog.Status `json:"status"`
	*catalog.Summary
	Pin    *Pin           `json:"pin,omitempty"`
	Drill  *catalog.Drill `json:"drill,omitempty"`  // the last one
	Begun  time.Time      `json:"begun,omitzero"`   // of those that are not complete
	By     string         `json:"by,omitempty"`     // HOST/PID/RANDOM
	Reason string         `json:"reason,omitempty"` // why it failed
}

// Pin keeps a backup from deletion.
type Pin struct {
	Until time.Time `json:"until,omitzero"` // none: for good
}

func (a *App) Listed(e *catalog.Entry) Listed {
	if e.Status == catalog.Complete {
		return Listed{Backup: e.ID, Status: e.Status, Summary: &e.Commit.Summary, Pin: a.pinOf(e), Drill: e.Drill}
	}
	l := Listed{Backup: e.ID, Status: e.Status, Begun: e.Begun, By: e.By}
	if e.Abort != nil {
		l.Reason = e.Abort.Reason
	}
	return l
}

// pinOf is the pin of a backup that holds now, or nil.
func (a *App) pinOf(e *catalog.Entry) *Pin {
	if e.Pin == nil || !e.Pin.Until.IsZero() && !e.Pin.Until.After(a.Now()) {
		return nil
	}
	return &Pin{e.Pin.Until}
}

func (p *Pin) String() string {
	switch {
	case p == nil:
		return ""
	case p.Until.IsZero():
		return "pinned"
	}
	return "pinned until " + p.Until.UTC().Format(time.DateTime+" MST")
}

package datadir

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/walstore/segment"
)

// Label is what a backup_label file says (read_backup_label in PostgreSQL's xlogrecovery.c).
type Label struct {
	StartLSN    segment.LSN // START WAL LOCATION: redo begins here
	StartFile   string      // the name of the segment with StartLSN
	Checkpoint  segment.LSN // CHECKPOINT LOCATION
	Method      string      // "streamed", or "pg_start_backup" of an exclusive backup
	From        string      // "primary" ("master" in old versions) or "standby"
	StartTime   string      // in the server's time zone and notation; for people only
	Label       string
	Timeline    segment.Timeline // START TIMELINE (11 and later), else that of StartFile
	Incremental bool             // made by pg_basebackup --incremental: no server starts from it
}

// ParseLabel reads a backup_label. Lines that it does not know are no error.
func ParseLabel(b []byte) (Label, error) {
	var l Label
	var start, checkpoint bool
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		if !ok {
			continue
		}
		var err error
		switch key {
		case "START WAL LOCATION":
			err = l.startLocation(value)
			start = err == nil
		case "CHECKPOINT LOCATION":
			l.Checkpoint, err = segment.ParseLSN(value)
			checkpoint = err == nil
		case "BACKUP METHOD":
			l.Method = value
		case "BACKUP FROM":
			l.From = value
		case "START TIME":
			l.StartTime = value
		case "LABEL":
			l.Label = value
		case "START TIMELINE":
			var tli segment.Timeline
			if tli, err = ParseTimeline(value); err == nil && l.Timeline != 0 && tli != l.Timeline {
				err = fmt.Errorf("it does not agree with the file name %s", l.StartFile)
			}
			l.Timeline = tli
		case "INCREMENTAL FROM LSN", "INCREMENTAL FROM TLI":
			l.Incremental = true
		}
		if err != nil {
			return Label{}, fmt.Errorf("read backup_label: %s: %w", key, err)
		}
	}
	if !start || !checkpoint {
		return Label{}, errors.New("read backup_label: START WAL LOCATION or CHECKPOINT LOCATION is missing")
	}
	return l, nil
}

// startLocation reads "%X/%X (file %24s)".
func (l *Label) startLocation(value string) (err error) {
	lsn, rest, _ := strings.Cut(value, " (file ")
	name, end, ok := strings.Cut(rest, ")")
	if !ok || end != "" || segment.Classify(name) != segment.Full {
		return fmt.Errorf("%q does not name a WAL segment", value)
	}
	if l.StartLSN, err = segment.ParseLSN(lsn); err != nil {
		return err
	}
	l.StartFile = name
	l.Timeline, err = segment.TimelineOf(name)
	return err
}

func ParseTimeline(s string) (segment.Timeline, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a timeline", s)
	}
	return segment.Timeline(n), nil
}

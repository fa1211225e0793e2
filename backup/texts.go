package backup

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgobj/pgobj/walstore/segment"
)

// WhereHistory says how a history file that is missing gets to the archive.
func WhereHistory(t segment.Timeline) string {
	return fmt.Sprintf("A server that is or was on timeline %d has it in pg_wal. Archive it there, in the data directory: pgobj wal-push pg_wal/%s", t, segment.HistoryName(t))
}

// WhereSegment says how a WAL segment that is missing gets to the archive.
func WhereSegment(name string) string {
	return fmt.Sprintf("If pg_wal of the old server still has the file, archive it there, in the data directory: pgobj wal-push pg_wal/%s", name)
}

// Stamp shows a time as people compare it with the server's log, and in this host's zone when that differs.
func Stamp(t time.Time) string {
	utc := t.UTC().Format("2006-01-02 15:04:05.999999Z07:00")
	if _, offset := t.Local().Zone(); offset == 0 {
		return utc
	}
	return utc + " (" + t.Local().Format("2006-01-02 15:04:05.999999 -07:00") + " here)"
}

// Some are the first of many names.
func Some(names []string, most int) string {
	text := strings.Join(names[:min(len(names), most)], ", ")
	if n := len(names); n > most {
		text += fmt.Sprintf(" and %d more", n-most)
	}
	return text
}

package segment

import (
	"fmt"
	"strconv"
	"strings"
)

// Ancestor is one line of a history file: Timeline was left at Switch for its successor, the next
// line's timeline or the file's own.
type Ancestor struct {
	Timeline Timeline
	Switch   LSN
	Reason   string
}

// Lineage is a timeline's line of descent, oldest ancestor first. Timeline 1 has none. See walstore/timeline for what follows
// from it.
type Lineage []Ancestor

// HistoryName is the name of a timeline's history file.
func HistoryName(t Timeline) string { return t.Hex() + ".history" }

// ParseHistory reads the history file of a timeline by the rules of readTimeLineHistory (timeline.c),
// and refuses a file without any ancestor: PostgreSQL never writes one, a crash may leave one.
func ParseHistory(tli Timeline, data []byte) (Lineage, error) {
	var h Lineage
	last := Timeline(0)
	n := 0
	for line := range strings.SplitSeq(string(data), "\n") {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		a, err := parseAncestor(line)
		if err != nil {
			return nil, fmt.Errorf("history of timeline %d, line %d: %w", tli, n, err)
		}
		if a.Timeline <= last {
			return nil, fmt.Errorf("history of timeline %d, line %d: timeline %d follows %d", tli, n, a.Timeline, last)
		}
		last = a.Timeline
		h = append(h, a)
	}
	if len(h) == 0 {
		return nil, fmt.Errorf("history of timeline %d names no ancestor", tli)
	}
	if last >= tli {
		return nil, fmt.Errorf("history of timeline %d names timeline %d as its ancestor", tli, last)
	}
	return h, nil
}

func parseAncestor(line string) (Ancestor, error) {
	id, rest := cutSpace(line)
	lsn, reason := cutSpace(rest)
	t, err := strconv.ParseUint(id, 10, 32)
	if err != nil || t == 0 {
		return Ancestor{}, fmt.Errorf("%q is not a timeline", id)
	}
	at, err := ParseLSN(lsn)
	if err != nil {
		return Ancestor{}, err
	}
	return Ancestor{Timeline(t), at, reason}, nil
}

func cutSpace(s string) (string, string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimSpace(s[i:])
	}
	return s, ""
}

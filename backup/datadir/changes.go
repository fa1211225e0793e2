package datadir

import (
	"errors"
	"strconv"
	"strings"
)

// ErrNoSummaries says that the WAL summaries do not tell what has changed; files have to be read then.
var ErrNoSummaries = errors.New("the server's WAL summaries do not show what has changed")

// Changes are the blocks that some WAL has changed, by PostgreSQL's own summaries of it (17 and later, with
// summarize_wal). Rules: GetFileBackupMethod in PostgreSQL's basebackup_incremental.c.
type Changes struct {
	Forks     map[ForkID]*ForkChanges
	Databases map[[2]uint32]bool // tablespace and database: all of it may have changed
	Blocks    int
}

type ForkID struct {
	space, database, relation uint32
	fork                      string
}

type ForkChanges struct {
	limit  uint32 // the fork was truncated to this many blocks, or created
	Blocks []uint32
}

// forkOf finds the fork that a relation file belongs to from its path.
func forkOf(e Entry) (id ForkID, ok bool) {
	const defaultSpace, globalSpace = 1663, 1664 // pg_tablespace.dat
	parts := strings.Split(e.Path, "/")
	number := func(s string) uint32 {
		v, err := strconv.ParseUint(s, 10, 32)
		ok = ok && err == nil && v > 0
		return uint32(v)
	}
	ok = e.Relation
	switch {
	case len(parts) == 2 && parts[0] == "global":
		id.space = globalSpace
	case len(parts) == 3 && parts[0] == "base":
		id.space, id.database = defaultSpace, number(parts[1])
	case len(parts) == 5 && parts[0] == "pg_tblspc":
		id.space, id.database = number(parts[1]), number(parts[3])
	default:
		return id, false
	}
	name, _, _ := strings.Cut(parts[len(parts)-1], ".")
	name, _, _ = strings.Cut(name, "_")
	id.relation, id.fork = number(name), e.Fork
	return id, ok
}

// Package patience says how long a recovery waits for what, and which exit code wal-fetch ends with then. It is the one table of
// that, which all who wait read, and docs/wal.md shows. It refuses to wait.
package patience

import (
	"fmt"
	"time"
)

// Exit codes of wal-fetch, which PostgreSQL acts on.
const (
	Absent  = 1   // there is no such file: PostgreSQL looks elsewhere, or ends recovery and promotes
	Unknown = 255 // nobody knows: PostgreSQL stops with FATAL
)

const (
	// Gap is for a segment that is missing before others: a server that catches up archives several at once, and they arrive in
	// any order.
	Gap = 20 * time.Second
	// Elsewhere bounds all that is waited for by a server that can do without an answer: a standby, which asks again by itself, and
	// one that has the history file itself.
	Elsewhere = 10 * time.Second
	// Attempt is for a request to the storage in which nothing moves, before it is made again.
	Attempt = 30 * time.Second
	// Damaged is the number of times that a damaged object is read: something on the way may have damaged what came.
	Damaged = 3
	// Looks is the number of times that a file is looked for that is listed and cannot be got, in one try.
	Looks = 4
	// Pause and LongestPause are between two tries. It doubles.
	Pause, LongestPause = time.Second, 15 * time.Second
	// Window is for a segment on its way into the window of what is fetched ahead, or a request of a helper's, in which nothing moves.
	Window = 10 * time.Second
	// Helper is for a failing storage, of those who work ahead: the rest is left to the process that PostgreSQL asks.
	Helper = time.Second
)

// Row is what wal-fetch waits for, how long, and its exit code then; and the same for a standby.
type Row struct {
	What, Long  string
	Code        int // 0: it goes on as Long says
	Standby     string
	StandbyCode int
}

// Table has all that wal-fetch waits for.
var Table = []Row{
	{"the storage: it fails, denies access, or is not there", "`--retry-for` (5m)", Unknown, within(Elsewhere), Absent},
	{"a request in which nothing moves", fmt.Sprintf("%v, then it is made again", Attempt), 0, fmt.Sprintf("%v, then it is made again", min(Attempt, Elsewhere)), 0},
	{"a file that is listed, and cannot be got", fmt.Sprintf("%d looks, then as for the storage", Looks), Unknown, "the same", Absent},
	{"a segment that is missing before others (a gap)", within(Gap), Unknown, "not at all", Absent},
	{"a damaged object", fmt.Sprintf("%d tries", Damaged), Unknown, "the same", Absent},
	{"the storage, for a history file of which `pg_wal` has a copy", within(Elsewhere), Absent, within(Elsewhere), Absent},
	{"a segment that is on its way into the window", fmt.Sprintf("%v in which it does not grow, then it is fetched", Window), 0, "the same", 0},
	{"a file that the archive proves not to have", "not at all", Absent, "not at all", Absent},
	{"another cluster's archive, a wrong setting", "not at all", Unknown, "not at all", Absent},
}

func within(d time.Duration) string { return fmt.Sprintf("%v, at most `--retry-for`", d) }

// String is the row of a Markdown table.
func (r Row) String() string {
	code := func(c int) string {
		if c == 0 {
			return ""
		}
		return fmt.Sprint(c)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |", r.What, r.Long, code(r.Code), r.Standby, code(r.StandbyCode))
}

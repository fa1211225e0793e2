package app

import (
	"errors"
	"fmt"
	"slices"
)

// Exit codes, 1 to 125: PostgreSQL's archiver takes a higher one for a crash. wal-fetch has rules of its
// own for its code, because PostgreSQL acts on it. docs/exit-codes.md is made of these lines.
const (
	ExitFailure     = 1  // something failed that no other code stands for; the text says what
	ExitUsage       = 2  // the command line, a setting or the configuration file is wrong, or the command cannot be tried here
	ExitStorage     = 3  // temporary storage error, also after retries
	ExitDenied      = 4  // the storage denies access: credentials or permissions
	ExitNoStore     = 5  // no such bucket or directory, or the storage cannot be used
	ExitNotFound    = 6  // no such backup, server, WAL file or file of a backup
	ExitConflict    = 7  // something else is there: other content under the same name, another cluster, a plan that has changed
	ExitDamaged     = 8  // stored data is damaged or missing
	ExitPostgres    = 9  // PostgreSQL does not answer, or does not allow it; or a backup of this moment could not be restored
	ExitTarget      = 10 // the directory to restore to cannot be used
	ExitWAL         = 11 // WAL is missing, or is not valid
	ExitNewer       = 12 // a newer pgobj has written this
	ExitPages       = 13 // the backup is complete, but the database has damaged pages
	ExitUnreachable = 14 // the recovery target cannot be reached from any backup, or from the one named
	ExitRefused     = 15 // a rule of retention forbids the deletion
	ExitLocked      = 16 // the storage did not delete all objects: object lock, or no right to delete
	ExitDrill       = 17 // the drill failed: the backup did not pass
	ExitTimeout     = 18 // not finished within --timeout
	ExitUnreadable  = 19 // stored objects cannot be read now: an archive storage class, or a disabled key
	ExitInterrupted = 20 // interrupted by a signal
	ExitNotReached  = 21 // restore-check: the recovery did not reach its target
	ExitRecovering  = 22 // restore-check: the recovery still goes on
)

// worst are the exit codes in the order in which they call for somebody: of a command for several servers the first one counts.
var worst = []int{ExitDamaged, ExitDrill, ExitWAL, ExitUnreachable, ExitNotReached, ExitPages, ExitUnreadable, ExitConflict, ExitPostgres, ExitDenied, ExitNoStore, ExitNewer,
	ExitTarget, ExitUsage, ExitNotFound, ExitRefused, ExitLocked, ExitFailure, ExitStorage, ExitTimeout, ExitInterrupted, ExitRecovering, 0}

// Worst is the worst of some exit codes. A process that crashed has one that is not in the list: that is ExitFailure.
func Worst(codes []int) int {
	first := len(worst) - 1
	for _, code := range codes {
		i := slices.Index(worst, code)
		if i < 0 {
			i = slices.Index(worst, ExitFailure)
		}
		first = min(first, i)
	}
	return worst[first]
}

var (
	ErrUsage       = errors.New("invalid setting")
	ErrInterrupted = errors.New("interrupted")
	ErrTimeout     = errors.New("not finished within --timeout")
	// ErrNoServer: a name may be mistyped, and then nothing that was done or shown is what was meant.
	ErrNoServer = errors.New("no such server")
	ErrStopping = errors.New("the server is stopping, so pgobj does not wait for the storage")
	// ErrDamagedPages: the backup is complete and kept, but what it holds is not all sound.
	ErrDamagedPages = errors.New("the backup is complete, but the database has damaged pages")
)

// Usagef is an error of the user's settings, which the text names.
func Usagef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUsage, fmt.Sprintf(format, args...))
}

// Coded is an error with an exit code of its own, for a caller that acts on it; without err it prints
// nothing.
type Coded struct {
	Code int
	Err  error
}

func (e *Coded) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

func (e *Coded) Unwrap() error { return e.Err }

// Package backup holds what the rooms below it share: progress, errors and a few texts. It refuses everything else. The rooms:
// part and manifest (the format of the bytes), content (reading it), pack and push (taking a backup), recovery, target, unpack, settings and
// restore (restoring one), outcome, verify, rebuild and drill (checking), datadir and server (PostgreSQL's files, and PostgreSQL).
package backup

import (
	"errors"
	"sync/atomic"
)

// Progress counts what has been done so far; anybody may read it at any time.
type Progress struct {
	Files  atomic.Int64 // written to the manifest, or restored
	Bytes  atomic.Int64 // of file content
	Read   atomic.Int64 // of these, read from the data directory; or what the frames that were fetched expand to
	Reused atomic.Int64 // of these, in the storage already
	// Repeated are those of a backup that it had stored already itself, as the same content stands in several places.
	Repeated atomic.Int64
	Stored   atomic.Int64 // bytes sent to the storage, or fetched from it

	TotalFiles atomic.Int64 // what there will be in the end; 0 while it is not known
	TotalBytes atomic.Int64
}

var (
	// ErrServer says that PostgreSQL, as it is set up or as it answered, does not allow a backup.
	ErrServer = errors.New("PostgreSQL does not allow a backup")
	// ErrUnseen says that data of the server is not where it should be, as seen from here: the backup would lack it.
	ErrUnseen = errors.New("pgobj cannot see data of the server here")
	// ErrDatabaseLost says that the replay of the WAL of a backup would not bring back a database as it was.
	ErrDatabaseLost = errors.New("a restore of this backup would lose a database, because the database was changed during the backup")
	// ErrIncarnation says that the catalog is of another PostgreSQL cluster.
	ErrIncarnation = errors.New("the catalog belongs to another cluster")
	// ErrWALMissing says that a backup was copied but WAL that it needs did not arrive in time.
	ErrWALMissing = errors.New("the repository does not have the WAL that the backup needs")
	// ErrReplaces: the storage does not keep what it has.
	ErrReplaces = errors.New("the storage replaces existing objects: it ignores If-None-Match on PUT")
	// ErrRequest says that what was asked for contradicts itself.
	ErrRequest = errors.New("invalid restore request")
	// ErrTarget says that the place to restore to cannot be used.
	ErrTarget = errors.New("cannot restore to this place")
)

// Package archiving watches whether the WAL that a server archives arrives in a storage. It refuses to know backups: it is told
// which WAL is waited for, and says whether waiting makes sense.
package archiving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrElsewhere says that a server has archived WAL, by its own account, which did not arrive here.
var ErrElsewhere = errors.New("the server archives its WAL elsewhere")

// Any is what Run takes for the name of a segment where only one that is archived from now on proves anything.
const Any = "any"

const (
	firstLook = 50 * time.Millisecond // the first pause between two looks; it grows to lastLook
	lastLook  = 5 * time.Second
	settle    = 2 * time.Second  // for what has been stored, until another endpoint or site of a storage knows it, too
	relayed   = 30 * time.Second // for what a standby archives (archive_mode = always), or passes on to wal-receive
	quiet     = 10 * time.Second // after so long with nothing archived that is said, and a segment is ended
)

// Server is one that archives.
type Server interface {
	Archiver(ctx context.Context) (server.ArchiverStatus, error)
	// SwitchWAL makes it end its WAL segment, so that there is something to archive.
	SwitchWAL(ctx context.Context) error
}

// Watch watches the archiver of one server.
type Watch struct {
	Server   Server
	Store    storage.Store // rooted at the server's directory
	SystemID uint64
	Patience time.Duration // for what wal-receive may bring, though the server has archived it elsewhere
	Log      *slog.Logger

	begun          time.Time
	since          time.Time // by the server's clock; zero: nothing is known, or it does not archive
	missing        absence   // the first since something was here: on a busy server the newest may always be on its way
	received       bool      // something has taken WAL since Begin; wal-receive connects again when it has lost the server
	said, switched bool
}

// absence is of a file that the server has archived, and that is not here.
type absence struct {
	name     string
	archived time.Time
	seen     time.Time // by this host's clock
}

// Begin notes from when on what is archived has to arrive.
func (w *Watch) Begin(ctx context.Context) {
	w.begun = time.Now()
	if a, err := w.Server.Archiver(ctx); err == nil && a.Command != "" && a.Mode != "off" {
		w.since, w.received = a.Now, a.Receivers > 0
	}
}

// Run returns nil when WAL arrives, or when ctx ends, and ErrElsewhere when it is certain that WAL does not. pending is the
// name of the last segment that the server has completed: when it has archived that one already, there is nothing to wait
// for, and it is enough that the last one which it has archived is here.
func (w *Watch) Run(ctx context.Context, pending string) error {
	for pause := firstLook; !w.since.IsZero(); pause = min(pause*5/4, lastLook) {
		a, err := w.Server.Archiver(ctx)
		if err != nil {
			return nil // whoever needs the server finds out
		}
		arrives, err := w.judge(ctx, a)
		if err != nil || arrives {
			return err
		}
		idle := a.LastArchived != "" && a.LastArchived >= pending && pending != Any
		if here, err := w.here(ctx, a.LastArchived); idle && here && err == nil {
			return nil
		}
		w.say(a)
		w.provoke(ctx, a, idle)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// Look says in words how the archiver does, or ErrElsewhere.
func (w *Watch) Look(ctx context.Context) (string, error) {
	a, err := w.Server.Archiver(ctx)
	if err != nil {
		return fmt.Sprintf("cannot read the state of the server's archiver: %v", err), nil
	}
	_, err = w.judge(ctx, a)
	return words(a), err
}

// judge holds what was archived last against the storage, if it was archived since Begin.
func (w *Watch) judge(ctx context.Context, a server.ArchiverStatus) (arrives bool, err error) {
	w.received = w.received || a.Receivers > 0
	if w.since.IsZero() || !a.LastArchivedAt.After(w.since) {
		return false, nil
	}
	x := w.missing
	here, err := w.here(ctx, a.LastArchived)
	if x.name == "" {
		x = absence{a.LastArchived, a.LastArchivedAt, time.Now()}
	} else if !here && err == nil {
		here, err = w.here(ctx, x.name)
	}
	switch typ := segment.Classify(x.name); {
	case here:
		w.missing = absence{}
		return true, nil
	case err != nil, typ != segment.Full && typ != segment.Backup: // a storage in trouble; a file that some commands leave out
		return false, nil
	}
	if w.missing = x; time.Since(x.seen) < w.limit(a) {
		return false, nil
	}
	setting := "archive_command"
	if a.Library {
		setting = "archive_library"
	}
	return false, fmt.Errorf("%w: it archived %s at %s, and %s does not have this segment\n%s is: %s\nIt must archive to %s",
		ErrElsewhere, x.name, stamp(x.archived), w.Store, setting, hideSecrets(a.Command), w.Store)
}

// limit is how long what the server has archived may be missing: others may bring it, too.
func (w *Watch) limit(a server.ArchiverStatus) time.Duration {
	switch {
	case w.received:
		return max(w.Patience, settle)
	case a.Standbys > 0:
		return max(min(w.Patience, relayed), settle)
	}
	return settle
}

// here says whether the storage has a WAL file; instead of a backup's history file, which some commands leave out, the
// segment that the server has archived before it is enough.
func (w *Watch) here(ctx context.Context, name string) (bool, error) {
	typ := segment.Classify(name)
	if typ == segment.Invalid {
		return false, nil
	}
	_, err := w.Store.Stat(ctx, object.Key(w.SystemID, name))
	if errors.Is(err, storage.ErrNotFound) && typ == segment.Backup {
		_, err = w.Store.Stat(ctx, object.Key(w.SystemID, name[:24]))
	}
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// say tells once that archiving does not work, or that nothing is archived.
func (w *Watch) say(a server.ArchiverStatus) {
	switch failing := fails(a); {
	case w.said, !failing && time.Since(w.begun) < quiet:
		return
	case failing:
		w.Log.Warn("archiving fails at the moment. The backup goes on, but needs archiving at its end", "archiver", words(a))
	default:
		w.Log.Info("no WAL has been archived since the backup began", "archiver", words(a))
	}
	w.said = true
}

// provoke ends a segment, once, where the server has nothing to archive that would prove anything.
func (w *Watch) provoke(ctx context.Context, a server.ArchiverStatus, idle bool) {
	if w.switched || fails(a) || !idle && time.Since(w.begun) < quiet {
		return
	}
	w.switched = true
	if err := w.Server.SwitchWAL(ctx); err != nil && ctx.Err() == nil {
		w.Log.Info("pgobj cannot test beforehand whether WAL arrives: it will know at the end of the backup", "error", err)
	}
}

func fails(a server.ArchiverStatus) bool { return a.LastFailedAt.After(a.LastArchivedAt) }

// words say how the archiver is doing.
func words(a server.ArchiverStatus) string {
	switch {
	case a.Mode == "off" || a.Command == "":
		return "archive_command is not in use, so only wal-receive can store WAL here: check that it runs with this storage and server"
	case fails(a):
		return fmt.Sprintf("archive_command failed for %s at %s (failures so far: %d): see the server's log for the reason", a.LastFailed, stamp(a.LastFailedAt), a.FailedCount)
	case a.LastArchived == "":
		return "archive_command has not archived anything yet: check that it is pgobj wal-push %p, with this storage and server"
	}
	return fmt.Sprintf("the server last archived %s at %s: if this is newer than the missing segment, archive_command writes to another storage or server name", a.LastArchived, stamp(a.LastArchivedAt))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999Z07:00") }

// hideSecrets leaves out what a command sets that sounds like a secret.
func hideSecrets(command string) string {
	secret := regexp.MustCompile(`(?i)((?:password|passwd|secret|token|key)\w*\s*=\s*)('[^']*'|"[^"]*"|\S+)`)
	inURL := regexp.MustCompile(`(://[^/\s:@]*:)\S*@`)
	return inURL.ReplaceAllString(secret.ReplaceAllString(command, "$1…"), "$1…@")
}

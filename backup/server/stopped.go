package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// ErrNotStopped: a backup of a stopped server was asked for, and the server runs, was not shut down cleanly, or was
// started meanwhile.
var ErrNotStopped = errors.New("the server is not shut down")

// Stopped is the data directory of a server that was shut down cleanly: what a Session is for one that runs. All that
// it tells comes from files, and a backup of it needs neither a start nor a stop, only that no server comes to run.
type Stopped struct {
	// PollEvery is how often Watch looks for a server: every second unless changed before Watch is called.
	PollEvery time.Duration

	dir      string
	control  datadir.Control
	raw      []byte // pg_control as it was at first
	shutdown datadir.Shutdown
}

// OpenStopped looks at a data directory, and fails with ErrNotStopped unless its server was shut down cleanly.
func OpenStopped(dir string) (*Stopped, error) {
	s := &Stopped{PollEvery: time.Second, dir: dir}
	if err := s.idle(); err != nil {
		return nil, err
	}
	var err error
	if s.control, s.raw, err = datadir.ReadControl(dir); err != nil {
		return nil, err
	}
	switch s.control.State {
	case datadir.ShutDown:
	case datadir.ShutDownInRecovery:
		return nil, fmt.Errorf("%w as a primary: %s belongs to a standby (the state in pg_control is %q), which needs WAL from its primary to be consistent: start it and run backup-push without --offline, or stop the primary and take the backup there", ErrNotStopped, dir, s.control.State)
	default:
		return nil, fmt.Errorf("%w cleanly: the state in pg_control of %s is %q, so it crashed or was stopped in immediate mode: start it, and stop it again with pg_ctl stop -m fast (or leave it running, and run backup-push without --offline)", ErrNotStopped, dir, s.control.State)
	}
	if s.control.Partial {
		return nil, fmt.Errorf("%w: %s has a pg_control of version %d, which this pgobj does not know: take a backup of the running server", ErrVersion, dir, s.control.Version)
	}
	return s, s.findWAL()
}

// idle makes sure that no server runs.
func (s *Stopped) idle() error {
	running, err := datadir.Running(s.dir)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotStopped, err)
	case running.PID != 0:
		return fmt.Errorf("%w: one runs in %s (pid %d): stop it with pg_ctl stop -m fast, or run backup-push without --offline", ErrNotStopped, s.dir, running.Process())
	}
	return nil
}

// findWAL reads the record of the checkpoint with which the server was shut down.
func (s *Stopped) findWAL() error {
	c := s.control
	walDir := filepath.Join(s.dir, "pg_wal")
	end, page, err := shutdownRecord(walDir, c)
	if err != nil {
		return fmt.Errorf("%w cleanly: the checkpoint of pg_control, at %s, cannot be read from the WAL, so the server cannot start either: %w", ErrNotStopped, c.Checkpoint, err)
	}
	s.shutdown = datadir.Shutdown{Checkpoint: c.Checkpoint, End: end}
	for seg := segment.At(c.Timeline, c.Checkpoint, c.SegmentSize); seg.Start(c.SegmentSize) < end; seg = seg.Next() {
		used := int64(end - seg.Start(c.SegmentSize))
		pages := (used + int64(page) - 1) / int64(page) // the server goes on in the last one
		s.shutdown.WAL = append(s.shutdown.WAL, datadir.WALFile{Name: seg.Name(c.SegmentSize), Keep: min(pages*int64(page), int64(c.SegmentSize))})
	}
	history := segment.HistoryName(c.Timeline)
	if st, err := os.Stat(filepath.Join(walDir, history)); err == nil { // its descendants need it; timeline 1 has none
		s.shutdown.WAL = append(s.shutdown.WAL, datadir.WALFile{Name: history, Keep: st.Size()})
	}
	return nil
}

// Info tells what the files tell.
func (s *Stopped) Info(context.Context) (Info, error) {
	c := s.control
	version, err := os.ReadFile(filepath.Join(s.dir, "PG_VERSION"))
	if err != nil {
		return Info{}, fmt.Errorf("read the version: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(version)))
	if err != nil {
		return Info{}, fmt.Errorf("%w: PG_VERSION says %q", ErrVersion, version)
	}
	info := Info{
		VersionNum: major * 10000, Version: strconv.Itoa(major), SystemID: c.SystemID, CatalogVersion: c.CatalogVersion, Timeline: c.Timeline,
		DataDirectory: s.dir, SegmentSize: c.SegmentSize, BlockSize: int(c.BlockSize), DataChecksums: c.ChecksumVersion > 0,
		ConfigFiles: s.configFiles(), Shutdown: &s.shutdown,
	}
	if len(info.ConfigFiles) > 0 {
		info.ConfigFile = info.ConfigFiles[0]
	}
	info.Tablespaces, err = s.tablespaces()
	return info, err
}

// tablespaces are the links in pg_tblspc. Their names are only in the database, so their OIDs stand for them.
func (s *Stopped) tablespaces() ([]catalog.Tablespace, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "pg_tblspc"))
	if err != nil {
		return nil, datadir.Explain("list tablespaces in", s.dir, err)
	}
	var spaces []catalog.Tablespace
	for _, e := range entries {
		oid, ok := datadir.SpaceOID(e.Name())
		if !ok {
			continue
		}
		t := catalog.Tablespace{OID: oid, Name: e.Name()}
		if !e.IsDir() {
			if t.Location, err = os.Readlink(filepath.Join(s.dir, "pg_tblspc", e.Name())); err != nil {
				return nil, datadir.Explain("read link", e.Name(), err)
			}
		}
		spaces = append(spaces, t)
	}
	return spaces, nil
}

// configFiles are those that the server was last started with, where that was on its command line (as Debian
// does; or -D named the directory of the configuration), and the access rules beside them. The first is the configuration itself.
func (s *Stopped) configFiles() []string {
	options, err := os.ReadFile(filepath.Join(s.dir, "postmaster.opts"))
	if err != nil {
		return nil
	}
	file := argument(string(options), `"config_file=`)
	if dir := argument(string(options), `"-D" "`); file == "" && dir != "" && dir != s.dir {
		file = filepath.Join(dir, "postgresql.conf")
	}
	if !filepath.IsAbs(file) {
		return nil
	}
	files := []string{filepath.Clean(file)}
	for _, name := range []string{"pg_hba.conf", "pg_ident.conf"} {
		path := filepath.Join(filepath.Dir(files[0]), name)
		if _, err := os.Stat(path); err == nil {
			files = append(files, path)
		}
	}
	return files
}

// argument is what follows in the same argument of postmaster.opts, each of which stands in quotes.
func argument(options, after string) string {
	_, rest, _ := strings.Cut(options, after)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// Start gives the place of the shutdown. There is nothing to begin.
func (s *Stopped) Start(context.Context, string, bool) (StartPoint, error) {
	return StartPoint{LSN: s.shutdown.Checkpoint, Timeline: s.control.Timeline, Time: s.control.CheckpointTime}, s.idle()
}

// Stop makes sure that no server has been at work since OpenStopped. There are no label and no tablespace map.
func (s *Stopped) Stop(context.Context) (StopPoint, error) {
	if err := s.idle(); err != nil {
		return StopPoint{}, err
	}
	_, raw, err := datadir.ReadControl(s.dir)
	if err != nil {
		return StopPoint{}, err
	}
	if !bytes.Equal(raw, s.raw) {
		return StopPoint{}, fmt.Errorf("%w any more: a server has run in %s since the backup began: stop it, and run the command again", ErrNotStopped, s.dir)
	}
	spaces, err := s.tablespaces()
	// The time is in whole seconds, and no transaction may be later.
	return StopPoint{LSN: s.shutdown.End, Timeline: s.control.Timeline, Time: s.control.CheckpointTime.Add(time.Second), Tablespaces: spaces}, err
}

// Watch ends the context that it returns when a server is started. stop ends the watch and waits for it.
func (s *Stopped) Watch(ctx context.Context) (watched context.Context, stop func()) {
	return watch(ctx, s.PollEvery, func(context.Context) error { return s.idle() })
}

// Archiver has nothing to tell: no server, no archiver.
func (s *Stopped) Archiver(context.Context) (ArchiverStatus, error) { return ArchiverStatus{}, nil }

// SwitchWAL has nothing to end.
func (s *Stopped) SwitchWAL(context.Context) error { return nil }

// Changes has nothing to tell, either.
func (s *Stopped) Changes(context.Context, timeline.Path) (*datadir.Changes, error) {
	return nil, datadir.ErrNoSummaries
}

package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/spool"
)

const (
	pushAheadMost = 64 // files: what PostgreSQL 15 and later finds in one look
	pushAheadLook = 2 * time.Millisecond
)

// pushAhead is wal-push's side of the process that archives what PostgreSQL will ask for; nil: there is none. Nothing that
// goes wrong with it is an error: the file that PostgreSQL has asked for is then pushed by the process that was asked.
type pushAhead struct {
	a       *app.App
	markers *spool.Markers
	start   []string // command line of the process
}

// aheadOf is for a file that the archiver of a running server waits for: not for a rescued one that is pushed by hand.
func (c *WalPush) aheadOf(a *app.App) (*pushAhead, error) {
	walDir, name := filepath.Split(c.Path)
	if c.Ahead <= 1 {
		return nil, nil
	}
	if _, err := os.Lstat(filepath.Join(walDir, "archive_status", name+".ready")); err != nil {
		return nil, nil
	}
	dataDir, err := dataDirFor(c.Path)
	if err != nil {
		return nil, nil // Push says what is wrong
	}
	if err := app.MayWorkAhead(dataDir); err != nil {
		a.Log.Debug("nothing is pushed ahead", "error", err)
		return nil, nil
	}
	control, _, err := datadir.ReadControl(dataDir)
	if err != nil || c.jobs(control.SegmentSize) == 1 {
		return nil, nil
	}
	dir, err := c.dir(a, dataDir)
	if err != nil || dir == "" {
		return nil, err
	}
	markers, err := a.Markers(dir, dataDir, control)
	if err != nil {
		a.Log.Debug("nothing is pushed ahead", "error", err)
		return nil, nil
	}
	absWAL, err1 := filepath.Abs(walDir)
	absData, err2 := filepath.Abs(dataDir)
	if err1 != nil || err2 != nil {
		return nil, nil
	}
	args := append([]string{"wal-push-ahead", absWAL, absData, "--of=" + serverRun(absData), "--spool=" + dir,
		"--wal-level=" + strconv.Itoa(c.Level), "--ahead=" + strconv.Itoa(c.Ahead)}, a.Settings.Args()...)
	return &pushAhead{a: a, markers: markers, start: args}, nil
}

// archived says whether the file is in the archive. It waits while another process has it on its list, and starts one when
// more files wait than this one.
func (p *pushAhead) archived(ctx context.Context, path string) bool {
	if p == nil {
		return false
	}
	if p.found(path) {
		return true
	}
	name := filepath.Base(path)
	seen := p.markers.Pushing(name)
	ended := make(chan struct{})
	if !seen {
		if p.markers.GaveUp() {
			p.a.Log.Debug("nothing is pushed ahead", "error", "a process that did so a moment ago failed")
			return false
		}
		rest, err := waiting(p.markers, filepath.Dir(path))
		if err != nil || len(rest) < 2 || !slices.ContainsFunc(rest, func(r string) bool { return filepath.Base(r) == name }) {
			tidy(p.markers, filepath.Dir(path))
			return false
		}
		cmd, err := startSelf(p.start)
		if err != nil {
			p.a.Log.Debug("nothing is pushed ahead", "error", err)
			return false
		}
		go func() { // most often it outlives us
			_ = cmd.Wait()
			close(ended)
		}()
	}
	deadline, _ := ctx.Deadline()
	patience := time.After(time.Until(deadline) / 2) // the rest is for a push of our own
	for {
		select {
		case <-ended:
			return p.found(path)
		case <-patience:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(pushAheadLook):
		}
		on := p.markers.Pushing(name)
		if seen && !on || p.markers.Likely(path) {
			return p.found(path)
		}
		seen = on
	}
}

// found answers by a marker.
func (p *pushAhead) found(path string) bool {
	known, ok := p.markers.Find(path)
	if !ok {
		return false
	}
	for _, w := range known.Warnings {
		p.a.Log.Warn(w)
	}
	p.a.Log.Debug("archived ahead", slog.String("file", filepath.Base(path)))
	return true
}

// waiting are the files of a pg_wal that wait and are not archived, as far as markers know: the first ones, in the order in
// which PostgreSQL asks for them.
func waiting(m *spool.Markers, walDir string) ([]string, error) {
	ready, err := walstore.Ready(walDir)
	if err != nil {
		return nil, err
	}
	var rest []string
	for _, path := range ready {
		if !m.Likely(path) {
			if rest = append(rest, path); len(rest) == pushAheadMost {
				break
			}
		}
	}
	return rest, nil
}

// WalPushAhead is the process that archives what waits. It is for wal-push, not for people. It ends when it has done so, at the
// first file that fails, and when its server is gone. Nobody learns how.
type WalPushAhead struct {
	WAL  string `arg:""`
	Data string `arg:""`
	Of   string `name:"of" required:""` // the run of the server that it was started for: it may be another by now
	pushFlags
}

func (c *WalPushAhead) Run(ctx context.Context, a *app.App) error {
	collectLate(min(c.Ahead, 3))
	control, _, err := datadir.ReadControl(c.Data)
	if err != nil {
		return err
	}
	dir, err := c.dir(a, c.Data)
	if err != nil || dir == "" {
		return err
	}
	markers, err := a.Markers(dir, c.Data, control)
	if err != nil {
		return err
	}
	tidy(markers, c.WAL)
	paths, err := waiting(markers, c.WAL)
	if err != nil {
		return err
	}
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = filepath.Base(path)
	}
	list, err := markers.Hold(names)
	if err != nil {
		return err
	}
	defer list.Release()
	limit := walPushTimeout
	ctx, cancel := app.WithTimeout(ctx, &limit)
	defer cancel()
	policy := aheadPolicy
	policy.Hurry, policy.Haste = serving(ctx, c.Data), walPushAheadHaste
	s, err := a.Open(policy)
	if err != nil {
		return err
	}
	go followServer(ctx, cancel, c.Data, c.Of, func() bool { return true }) // ends with ctx
	if err := a.Gate(s, markers).Admit(ctx, control.SystemID); err != nil {
		return err // as the request does, which is then not answered by a marker
	}
	ahead := walstore.Ahead{
		Jobs: c.jobs(control.SegmentSize),
		Pushed: func(path string, res walstore.PushResult) error {
			err := mark(markers, path, res)
			if err != nil { // PostgreSQL's request will push it again
				list.GiveUp()
			}
			return err
		},
		Failed: func(path string, err error) {
			a.Log.Debug("not pushed ahead", "file", filepath.Base(path), "error", err)
			list.Forget()
		},
	}
	ahead.Push(ctx, s, walstore.PushRequest{Level: c.Level, Spill: dir, SystemID: func() (uint64, error) { return control.SystemID, nil }}, paths)
	return nil
}

// tidy removes markers that nobody needs.
func tidy(m *spool.Markers, walDir string) {
	m.Tidy(func(name string) bool {
		_, err := os.Lstat(filepath.Join(walDir, "archive_status", name+".ready"))
		return err == nil
	})
}

func mark(m *spool.Markers, path string, res walstore.PushResult) error {
	id, ok := spool.IdentityOf(res.File)
	if !ok {
		return errors.New("this system cannot identify files")
	}
	return m.Add(filepath.Base(path), spool.Archived{Identity: id, SHA256: fmt.Sprintf("%x", res.SHA256), XXH3: res.XXH3, Warnings: res.Warnings})
}

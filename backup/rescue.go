package backup

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/walstore/segment"
)

// rescue looks for WAL in the old data directory that was never archived: the last transactions may be only
// there, and a delta restore removes it. It is saved, or let go of, or the restore is refused.
func (p *Plan) rescue() error {
	t, r := p.target, p.request
	if !t.delta {
		return nil
	}
	if err := t.checkCluster(p.Backup.SystemID); err != nil {
		return err
	}
	names, err := t.unarchived()
	if err != nil {
		return fmt.Errorf("look for WAL that was never archived: %w", err)
	}
	if len(names) == 0 || r.DiscardWAL {
		return nil
	}
	if r.SaveWAL == "" {
		return fmt.Errorf("%w: %s has %d WAL file(s) that were never archived (%s): the last transactions may be only there\n"+
			"Give --save-wal DIR to keep a copy (and --discard-wal to let go of it). To have it in the recovery, archive it first, in %s: pgobj wal-push pg_wal/%s",
			ErrTarget, t.dir, len(names), firstFew(names), t.dir, names[0])
	}
	to, err := filepath.Abs(r.SaveWAL)
	if err != nil || within(to, t.dir) {
		return fmt.Errorf("%w: --save-wal %s: give a folder outside of the data directory", ErrTarget, r.SaveWAL)
	}
	p.Saved, p.SavedIn = names, to
	return nil
}

func firstFew(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + " …"
	}
	return strings.Join(names, ", ")
}

// unarchived lists the files of pg_wal that the archiver has not been through with: those that wait for it, and
// after a crash the one that was being written. Segments that were recycled, or made ahead, do not count.
func (t *target) unarchived() ([]string, error) {
	dir := filepath.Join(t.dir, "pg_wal")
	names, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	c, ok := t.control()
	clean := ok && (c.State == cluster.ShutDown || c.State == cluster.ShutDownInRecovery)
	var found []string
	for _, name := range names {
		status := filepath.Join(dir, "archive_status", name)
		switch kind := segment.Classify(name); {
		case kind == segment.Invalid, exists(status + ".done"):
		case exists(status + ".ready"):
			found = append(found, name)
		case kind == segment.Full && !clean && isWritten(filepath.Join(dir, name), name):
			found = append(found, name)
		}
	}
	return found, nil
}

// isWritten says whether a segment has been written to under its name.
func isWritten(path, name string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	page := make([]byte, segment.HeaderSize)
	if _, err := io.ReadFull(f, page); err != nil {
		return false
	}
	h, err := segment.ParseHeader(page)
	return err == nil && h.Verify(name, int64(h.Size)) == nil
}

// saveWAL copies what Saved lists, durably.
func (p *Plan) saveWAL() error {
	if len(p.Saved) == 0 {
		return nil
	}
	to := p.SavedIn
	root, err := p.target.openRoot(to)
	if err != nil {
		return err
	}
	t := &target{dir: to, delta: true, root: root, uid: p.target.uid, gid: p.target.gid, fileMode: 0o600}
	defer t.close()
	for _, name := range p.Saved {
		if err := t.save(filepath.Join(p.target.dir, "pg_wal", name), name); err != nil {
			return err
		}
	}
	if err := syncPath(to); err != nil {
		return err
	}
	return syncPath(filepath.Dir(to))
}

// save copies a file into the target, where it may be already, as the run before has left it.
func (t *target) save(from, name string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if to := filepath.Join(t.dir, name); exists(to) {
		a, err1 := fileSum(from)
		b, err2 := fileSum(to)
		if err := errors.Join(err1, err2); err != nil || a == b {
			return err
		}
		return fmt.Errorf("%s is there already with other content: name another folder", to)
	}
	return t.writeFrom(name, f)
}

func fileSum(path string) (sum part.Hash, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return part.Hash(h.Sum(nil)), err
}

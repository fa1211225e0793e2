package push

import (
	"errors"
	"io"
	"os"
	"strings"

	"github.com/pgobj/pgobj/backup/datadir"
)

// ownWAL is the content of a WAL file that belongs to a stopped server's data; nil for all other files, which are
// read as they are.
func (p *push) ownWAL(e datadir.Entry) io.ReaderAt {
	name, ok := strings.CutPrefix(e.Path, "pg_wal/")
	if !ok || p.info.Shutdown == nil || e.Type != datadir.TypeFile {
		return nil
	}
	for _, f := range p.info.Shutdown.WAL {
		if f.Name == name {
			return walContent{e.Source, f.Keep}
		}
	}
	return nil
}

// walContent is a segment up to keep and zeros from there on, as in one that was never used before: what else is
// there is old WAL, up to 1 GB of it, that no server reads.
type walContent struct {
	path string
	keep int64
}

func (w walContent) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	n := min(w.keep-at, int64(len(b)))
	if n <= 0 {
		return len(b), nil
	}
	f, err := os.Open(w.path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.ReadAt(b[:n], at); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return len(b), nil
}

package backup

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
)

// inPart is damage, and in which part it is.
type inPart struct {
	name string
	off  int64 // of the frame; -1: it is not in one frame
	err  error
}

func (e *inPart) Error() string { return e.err.Error() }

func (e *inPart) Unwrap() error { return e.err }

// missing says that there is no such part, and cause how that is known.
func missing(name string, cause error) error {
	return &inPart{name, -1, fmt.Errorf("%w: part %s is missing: %w", part.ErrDamaged, part.Key(name), cause)}
}

// damagedFrame says of damage in which frame it is.
func damagedFrame(x manifest.Extent, err error) error {
	if errors.Is(err, part.ErrDamaged) {
		return &inPart{x.Part, x.Off, err}
	}
	return err
}

// in says whether some of a file's content is where the damage is.
func (e *inPart) in(f *manifest.File) bool {
	for _, c := range f.Chunks {
		if slices.ContainsFunc(c.Extents, func(x manifest.Extent) bool { return x.Part == e.name && (e.off < 0 || x.Off == e.off) }) {
			return true
		}
	}
	return false
}

// named is how many files hurt names; the others it counts.
const named = 5

// hurt adds to an error about a damaged part which files of the backup have content there.
func (m *files) hurt(err error) error {
	at, ok := errors.AsType[*inPart](err)
	if !ok {
		return err
	}
	lines, e := m.read()
	if e != nil {
		return err
	}
	var paths []string
	n, last := 0, ""
	for {
		f, e := lines.Next()
		if e == io.EOF {
			break
		}
		if e != nil {
			return err
		}
		if path := f.RawPath(); path != last && at.in(f) { // a large file has several lines
			last = path
			if n++; n <= named {
				paths = append(paths, fmt.Sprintf("%q", path))
			}
		}
	}
	if n > named {
		paths = append(paths, fmt.Sprintf("and %d more", n-named))
	}
	if n == 0 {
		return err
	}
	where := "frame"
	if at.off < 0 {
		where = "part"
	}
	return fmt.Errorf("%w\nThe backup has content of these files in that %s: %s", err, where, strings.Join(paths, ", "))
}

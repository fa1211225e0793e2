package content

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
)

// InPart is damage, and in which part it is.
type InPart struct {
	Name string
	Off  int64 // of the frame; -1: it is not in one frame
	Err  error
}

func (e *InPart) Error() string { return e.Err.Error() }

func (e *InPart) Unwrap() error { return e.Err }

// Missing says that there is no such part, and cause how that is known.
func Missing(name string, cause error) error {
	return &InPart{name, -1, fmt.Errorf("%w: part %s is missing: %w", part.ErrDamaged, part.Key(name), cause)}
}

// damagedFrame says of damage in which frame it is.
func damagedFrame(x manifest.Extent, err error) error {
	if errors.Is(err, part.ErrDamaged) {
		return &InPart{x.Part, x.Off, err}
	}
	return err
}

// in says whether some of a file's content is where the damage is.
func (e *InPart) in(f *manifest.File) bool {
	for _, c := range f.Chunks {
		if slices.ContainsFunc(c.Extents, func(x manifest.Extent) bool { return x.Part == e.Name && (e.Off < 0 || x.Off == e.Off) }) {
			return true
		}
	}
	return false
}

// named is how many files affected names; the others it counts.
const named = 5

// Affected adds to an error about a damaged part which files of the backup have content there.
func (m *Files) Affected(err error) error {
	at, ok := errors.AsType[*InPart](err)
	if !ok {
		return err
	}
	var paths []string
	n, last := 0, ""
	for f, e := range m.All() {
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
	if at.Off < 0 {
		where = "part"
	}
	return fmt.Errorf("%w\nThis %s has content of these files of the backup: %s", err, where, strings.Join(paths, ", "))
}

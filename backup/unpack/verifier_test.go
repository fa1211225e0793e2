package unpack

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
)

// Whichever of any number of chunks has another hash, a verification names its file; the buffer in which content
// comes is the same for all, as a frameReader's is.
func TestVerifierChecksEveryChunk(t *testing.T) {
	for chunks := range 6 {
		for bad := -1; bad < chunks; bad++ {
			err := verifyChunks(chunks, bad)
			if bad < 0 && err != nil {
				t.Errorf("%d sound chunks: %v", chunks, err)
			}
			if bad >= 0 && (!errors.Is(err, part.ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("%q", file(bad)))) {
				t.Errorf("%d chunks, %d with another hash: %v", chunks, bad, err)
			}
		}
	}
}

func file(i int) string { return fmt.Sprintf("base/5/%d", i) }

// verifyChunks verifies chunks of one file each: one extent, two, and one without a hash in turn.
func verifyChunks(chunks, bad int) error {
	v := verifier{unpacker: &unpacker{progress: &backup.Progress{}}}
	buf := make([]byte, part.PageSize)
	for i := range chunks {
		content := bytes.Repeat([]byte{byte(i)}, len(buf))
		extents := 1 + i%2
		c := &assembly{len: len(buf), sum: part.Sum(content)}
		if i == bad {
			c.sum[0] ^= 1
		}
		c.left.Store(int64(extents))
		o := &output{path: file(i)}
		o.left.Store(int64(extents))
		for n, at := len(buf)/extents, 0; at < len(buf); at += n {
			data := buf[:copy(buf, content[at:at+n])]
			if err := v.take(want{manifest.Extent{At: int64(at), Len: n}, o, c}, data); err != nil {
				return err
			}
			clear(buf)
		}
		unknown := &output{path: "base/5/unknown"} // nobody knows its chunk's hash
		unknown.left.Store(1)
		if err := v.take(want{manifest.Extent{Len: len(buf)}, unknown, &assembly{len: len(buf)}}, buf); err != nil {
			return err
		}
	}
	return v.rest()
}

package object

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// What is added is read back, wherever it had to be kept.
func TestPayload(t *testing.T) {
	full := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(full, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	spill := filepath.Join(t.TempDir(), "spool")
	for _, dir := range []string{"", spill, full} { // full stands for a disk that takes nothing
		p := &Body{Dir: dir}
		defer p.Close()
		var want []byte
		rng := rand.NewChaCha8([32]byte{1})
		for _, size := range []int{keepInMemory - 10, 1, 9, 5000, 1, 1 << 20, 64} {
			b := make([]byte, size)
			_, _ = rng.Read(b)
			p.Add(b)
			want = append(want, b...)
			clear(b) // the caller uses it again
		}
		if inFile := p.filed > 0; inFile != (dir == spill) {
			t.Errorf("%q: %d bytes are in a file", dir, p.filed)
		}
		if got, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: read %d bytes, %v", dir, len(got), err)
		}
		for range 200 {
			off := int64(keepInMemory) - 20 + rand.Int64N(p.Size-keepInMemory+40)
			buf := make([]byte, rand.IntN(8000))
			n, err := p.ReadAt(buf, off)
			left := max(0, p.Size-off)
			if int64(n) != min(left, int64(len(buf))) || (err != nil) != (n < len(buf)) || err != nil && err != io.EOF {
				t.Fatalf("%q: ReadAt(%d, %d) = %d, %v of %d", dir, len(buf), off, n, err, p.Size)
			}
			if n > 0 && !bytes.Equal(buf[:n], want[off:off+int64(n)]) {
				t.Fatalf("%q: ReadAt(%d, %d) returns other bytes", dir, len(buf), off)
			}
		}
	}
	if left, err := os.ReadDir(spill); err != nil || len(left) > 0 {
		t.Errorf("%v is left over, %v", left, err)
	}
}

package part

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"
)

// liar is an encoder with a fault in its call number nth, from 0: in changes a copy of what it gets, out what it makes.
type liar struct {
	honest  Encoder
	nth     int
	in, out func([]byte) []byte
}

func (l *liar) Append(dst, raw []byte) []byte {
	l.nth--
	if l.nth == -1 && l.in != nil {
		raw = l.in(bytes.Clone(raw))
	}
	out := l.honest.Append(dst, raw)
	if l.nth == -1 && l.out != nil {
		out = append(out[:len(dst)], l.out(out[len(dst):])...)
	}
	return out
}

func flipAt(at float64) func([]byte) []byte {
	return func(b []byte) []byte {
		b[int(at*float64(len(b)-1))] ^= 0x10
		return b
	}
}

func content(path string, n int) Content {
	rnd := rand.New(rand.NewPCG(3, uint64(n)))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rnd.Uint32() >> 29)
	}
	return Content{Path: path, Data: data, SHA256: Sum(data), CRC32C: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)), Whole: true, Mode: 0o600, Relation: true}
}

// packThree packs three files into one frame, which a fault then befalls, and returns how many parts were handed over.
func packThree(t *testing.T, c Codec, fault func(w *Writer)) (parts int, err error) {
	t.Helper()
	w, err := NewWriter(c, nil, func() string { return Name("b", 1, c) }, func(Full) ([]byte, error) { parts++; return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{"base/5/1", "base/5/2", "base/5/3"} {
		if _, _, err := w.Add(content(path, 60_000+i)); err != nil {
			t.Fatal(err)
		}
	}
	fault(w)
	return parts, w.Close()
}

// What a faulty encoder or faulty memory has made of the data is never handed over to be stored.
func TestMispackedIsRefused(t *testing.T) {
	type fault struct {
		name, says string
		befall     func(w *Writer)
	}
	lie := func(name, says string, l liar) fault {
		return fault{name, says, func(w *Writer) {
			l := l
			l.honest, w.pack.enc = w.pack.enc, &l
		}}
	}
	faults := []fault{
		lie("frame without its last byte", `"base/5/1" to "base/5/3"`, liar{in: func(b []byte) []byte { return b[:len(b)-1] }}),
		lie("frame with one more byte", `"base/5/1" to "base/5/3"`, liar{in: func(b []byte) []byte { return append(b, 0) }}),
		lie("frame that is empty", `"base/5/1" to "base/5/3"`, liar{out: func([]byte) []byte { return nil }}),
		lie("frame that is cut off", `"base/5/1" to "base/5/3"`, liar{out: func(b []byte) []byte { return b[:len(b)/2] }}),
		lie("index", "its index into part b/00001", liar{nth: 1, in: flipAt(0.7)}),
		{"memory", `the data of "base/5/2" differs`, func(w *Writer) {
			m := w.line.Members[1]
			flipAt(0.4)(w.raw[m.Skip:][:m.Len])
		}},
	}
	for _, at := range []float64{0, 0.01, 0.3, 0.6, 0.999, 1} {
		faults = append(faults, lie(fmt.Sprintf("bit at %g", at), `pack "base/5/1" to "base/5/3"`, liar{in: flipAt(at)}))
	}
	faults = append(faults, lie("bit of a file", `the data of "base/5/3" differs`, liar{in: flipAt(0.8)}))
	for _, c := range []Codec{Default, {"zstd", 9}, {Name: "lz4"}} {
		if n, err := packThree(t, c, func(*Writer) {}); err != nil || n != 1 {
			t.Fatalf("%s without a fault: %d parts, %v", c, n, err)
		}
		for _, f := range faults {
			n, err := packThree(t, c, f.befall)
			if n != 0 || !errors.Is(err, ErrMispacked) || !strings.Contains(err.Error(), f.says) {
				t.Errorf("%s, %s: %d parts handed over, error %v, which should say %s", c, f.name, n, err, f.says)
			}
		}
	}
}

// Whichever bit of a stored frame the encoder gets wrong: it is refused, or still stands for the same data.
func TestMispackedFrameIsRefused(t *testing.T) {
	for _, c := range []Codec{Default, {Name: "lz4"}} {
		refused := 0
		const tries = 200
		for i := range tries {
			n, err := packThree(t, c, func(w *Writer) { w.pack.enc = &liar{honest: w.pack.enc, out: flipAt(float64(i) / (tries - 1))} })
			switch {
			case err != nil && n == 0 && errors.Is(err, ErrMispacked):
				refused++
			case err != nil || n != 1:
				t.Errorf("%s, flip %d: %d parts handed over, error %v", c, i, n, err)
			}
		}
		if refused < tries*9/10 {
			t.Errorf("%s: only %d of %d flips were refused", c, refused, tries)
		}
	}
}

// A compressor that has a fault, from whichever frame on, does not get a full part past the proof.
func TestFaultyCompressorIsFoundOut(t *testing.T) {
	for from := 0; from < 3*proveEvery; from += 4 {
		buf := make([]byte, 0, TargetSize+2*MaxFrame+1<<20)
		var w *Writer
		w, err := NewWriter(Default, buf, func() string { return Name("b", 1, Default) }, func(Full) ([]byte, error) {
			if _, spoils := w.pack.enc.(always); spoils {
				t.Errorf("spoiled from frame %d on: a part is handed over", from)
			}
			return buf, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		honest := w.pack.enc
		for i := 0; err == nil && i < from+proveEvery; i++ {
			if i == from {
				w.pack.enc = always{honest}
			}
			_, _, err = w.Add(content("base/5/16384", ChunkSize))
		}
		if !errors.Is(err, ErrMispacked) {
			t.Errorf("spoiled from frame %d on: %v", from, err)
		}
	}
}

// always is an encoder that spoils every frame.
type always struct{ honest Encoder }

func (a always) Append(dst, raw []byte) []byte {
	return a.honest.Append(dst, flipAt(0.5)(bytes.Clone(raw)))
}

// BenchmarkWriter tells what packing costs for each byte; the proof is in it.
func BenchmarkWriter(b *testing.B) {
	for _, c := range []Codec{Default, {Name: "lz4"}} {
		b.Run(c.Name, func(b *testing.B) {
			buf := make([]byte, 0, TargetSize+2*MaxFrame+1<<20)
			w, err := NewWriter(c, nil, func() string { return Name("b", 1, c) }, func(Full) ([]byte, error) { return buf, nil })
			if err != nil {
				b.Fatal(err)
			}
			page := content("base/5/16384", ChunkSize)
			b.SetBytes(ChunkSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := w.Add(page); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

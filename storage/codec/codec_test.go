package codec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Each frame is held against the decoder of a library, and many against the programs zstd and lz4, whose decoders
// are the formats' own.

type format struct {
	program string
	codec   Codec
	decode  func(t testing.TB, frame []byte) ([]byte, error)
}

var formats = []format{
	{"zstd", Default, func(t testing.TB, frame []byte) ([]byte, error) {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		return d.DecodeAll(frame, nil)
	}},
	{"lz4", Codec{Name: "lz4"}, func(_ testing.TB, frame []byte) ([]byte, error) {
		return io.ReadAll(lz4.NewReader(bytes.NewReader(frame)))
	}},
}

// check packs src as a frame after something else, and holds what decoders make of it against src.
func (f format) check(t testing.TB, e *Encoder, src []byte) []byte {
	t.Helper()
	kept := bytes.Clone(src)
	frame, err := e.Append([]byte("before"), src)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(src, kept) {
		t.Fatal("the encoder has changed its input")
	}
	if string(frame[:6]) != "before" {
		t.Fatal("the encoder has changed what stood before")
	}
	frame = frame[6:]
	got, err := f.decode(t, frame)
	if err != nil || !bytes.Equal(got, src) {
		name := filepath.Join(os.TempDir(), "frame-failed")
		t.Fatalf("%s: %d bytes (in %s) come back as %d, %v, %v", f.program, len(src), name, len(got), err, os.WriteFile(name, src, 0o600))
	}
	return frame
}

// page is 8 kB as PostgreSQL fills them: line pointers from the front, rows that resemble each other from the back.
func page(r *rand.Rand, no int) []byte {
	p := make([]byte, 8192)
	copy(p, fmt.Sprintf("header %06d", no))
	at, row := 24, len(p)
	for n := 0; ; n++ {
		data := fmt.Appendf(nil, "\x00\x01\x02%08d\x18\x00%08d,%x,%s", no, n, r.Uint32(), bytes.Repeat([]byte{' '}, 60+r.IntN(9)))
		if row-len(data) < at+4 {
			return p
		}
		row -= len(data)
		copy(p[row:], data)
		p[at], p[at+1], p[at+2], p[at+3] = byte(row), byte(row>>8)|0x80, byte(len(data)<<1), 0
		at += 4
	}
}

// kinds are contents of n bytes.
var kinds = map[string]func(r *rand.Rand, n int) []byte{
	"zeros": func(_ *rand.Rand, n int) []byte { return make([]byte, n) },
	"noise": func(r *rand.Rand, n int) []byte { return filled(n, func() byte { return byte(r.Uint32()) }) },
	"bits":  func(r *rand.Rand, n int) []byte { return filled(n, func() byte { return byte(r.Uint32() >> 31) }) },
	"text": func(r *rand.Rand, n int) []byte {
		return filled(n, func() byte { return "etaoin shrdlu\n"[min(r.IntN(14), r.IntN(14))] })
	},
	"pages": func(r *rand.Rand, n int) []byte {
		var b []byte
		for no := 0; len(b) < n; no++ {
			b = append(b, page(r, no)...)
		}
		return b[:n]
	},
	"pages and noise": func(r *rand.Rand, n int) []byte {
		var b []byte
		for no := 0; len(b) < n; no++ {
			if p := page(r, no); r.IntN(3) > 0 {
				b = append(b, p...)
			} else {
				b = append(b, filled(r.IntN(300_000), func() byte { return byte(r.Uint32()) })...)
			}
		}
		return b[:n]
	},
	"period": func(r *rand.Rand, n int) []byte {
		p := filled(1+r.IntN(300), func() byte { return byte(r.Uint32()) })
		return bytes.Repeat(p, n/len(p)+1)[:n]
	},
	// Copies of all lengths from all distances, between literals of all alphabets: what no file has.
	"copies": func(r *rand.Rand, n int) []byte {
		var b []byte
		last := 1
		for len(b) < n {
			shift := r.IntN(9)
			b = append(b, filled(r.IntN(1+r.IntN(1+r.IntN(500))), func() byte { return byte(r.Uint32()) >> shift })...)
			for range r.IntN(1 + r.IntN(200)) {
				if len(b) == 0 {
					break
				}
				if r.IntN(3) > 0 {
					last = 1 + r.IntN(min(len(b), 1<<r.IntN(21)))
				}
				for range 3 + r.IntN(1<<r.IntN(10)) {
					b = append(b, b[len(b)-min(last, len(b))])
				}
				if r.IntN(2) > 0 {
					b = append(b, byte(r.Uint32()))
				}
			}
		}
		return b[:n]
	},
}

func filled(n int, b func() byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = b()
	}
	return p
}

// Sizes at which headers, blocks and streams change, with each kind of content, by an encoder that has just made
// something else: what it makes must not depend on that.
func TestFramesExpandToWhatWasPacked(t *testing.T) {
	sizes := []int{100, 255, 256, 1023, 1024, 1025, 4095, 4096, 8192, 65535, 65536, 65535 + 256, 65536 + 256, maxBlock - 1, maxBlock, maxBlock + 1, maxBlock + margin,
		3*maxBlock + 7, 1 << 20, 1<<20 + 1536, maxFast, maxFast + 1, 4<<20 - 1, 4 << 20, 4<<20 + 1}
	for n := range 70 {
		sizes = append(sizes, n)
	}
	for _, f := range formats {
		used := newEncoder(t, f.codec)
		r := rand.New(rand.NewPCG(1, 2))
		var files []string
		dir := t.TempDir()
		for name, make := range kinds {
			for _, size := range sizes {
				src := make(r, size)
				frame := f.check(t, used, src)
				if other, err := newEncoder(t, f.codec).Append(nil, src); err != nil || !bytes.Equal(frame, other) {
					t.Fatalf("%s, %s: a new encoder makes something else of %d bytes", f.program, name, size)
				}
				if size >= 65 || size%7 == 0 {
					files = append(files, filepath.Join(dir, fmt.Sprintf("%s-%d.%s", name, size, f.program)))
					if err := os.WriteFile(files[len(files)-1], frame, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		args := append([]string{"-q", "-t"}, files...)
		if f.program == "lz4" {
			args = append([]string{"-m"}, args...) // several files
		}
		if out, err := exec.Command(f.program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s refuses a frame: %v\n%s", f.program, err, out)
		}
	}
}

// What no table of sizes has: contents of random structure.
func TestRandomContents(t *testing.T) {
	rounds := 200
	if os.Getenv("PGOBJ_TORTURE") != "" {
		rounds = 50_000
	}
	for _, f := range formats {
		e := newEncoder(t, f.codec)
		for seed := range uint64(rounds) {
			r := rand.New(rand.NewPCG(seed, 1))
			f.check(t, e, kinds["copies"](r, r.IntN(1<<r.IntN(21))))
			f.check(t, e, kinds["pages and noise"](r, r.IntN(1<<r.IntN(21))))
		}
	}
}

func FuzzAppend(f *testing.F) {
	for name := range kinds {
		f.Add(kinds[name](rand.New(rand.NewPCG(1, 1)), 3000))
	}
	encoders := []*Encoder{newEncoder(f, formats[0].codec), newEncoder(f, formats[1].codec)}
	f.Fuzz(func(t *testing.T, src []byte) {
		for i, f := range formats {
			f.check(t, encoders[i], src)
		}
	})
}

// The header tells the size, so that a reader knows how much memory a frame needs; higher levels are the library's, and so
// is what is too large.
func TestZstdLevels(t *testing.T) {
	src := kinds["pages"](rand.New(rand.NewPCG(1, 2)), maxFast+1)
	for _, level := range []int{0, 1, 3, 5, 6, 19} {
		e := newEncoder(t, Codec{"zstd", level})
		for _, n := range []int{300, 1 << 18, maxFast, maxFast + 1} {
			var h zstd.Header
			frame := formats[0].check(t, e, src[:n])
			if err := h.Decode(frame); err != nil || h.FrameContentSize != uint64(n) || h.HasCheckSum {
				t.Errorf("level %d: header of %d bytes: %+v, %v", level, n, h, err)
			}
		}
		if _, own := e.frames.(*ownZstd); own != (level < 6) {
			t.Errorf("level %d: own frames: %v", level, own)
		}
	}
}

// More sequences than two bytes can count: parse finds so many in nothing that is known, so they are given here.
func TestManySequences(t *testing.T) {
	for _, n := range []int{1, 2, 127, 128, 0x7eff, 0x7f00, maxBlock/shortest - 2} {
		f := newFast()
		f.reset()
		f.forget()
		src := []byte("abcdefgh")
		f.literal = copy(f.literals[:], src)
		first := len(src)
		for i := range n {
			offset := 5 + i%3
			for range shortest {
				src = append(src, src[len(src)-offset])
			}
			f.sequences.add(uint32(first), shortest, f.repeats.value(uint32(offset), first == 0))
			first = 0
		}
		frame := append(appendHeader(nil, len(src)), 0, 0, 0)
		at := len(frame)
		frame = f.appendSequences(f.appendLiterals(frame))
		header := (len(frame)-at)<<3 | compressedBlock<<1 | 1
		frame[at-3], frame[at-2], frame[at-1] = byte(header), byte(header>>8), byte(header>>16)
		if got, err := formats[0].decode(t, frame); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%d sequences: %v", n, err)
		}
	}
}

// Whatever occurs has a share, and the shares are all there are.
func TestShare(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		count := make([]uint32, 2+r.IntN(52))
		n := 0
		for s := range count {
			if r.IntN(3) > 0 {
				count[s] = r.Uint32N(1 << r.IntN(16))
			}
		}
		count[0]++
		count[len(count)-1]++
		for _, k := range count {
			n += int(k)
		}
		shares, log := share(count, n, 8+r.IntN(2))
		sum := 0
		for s, share := range shares {
			sum += int(share)
			if occurs := s < len(count) && count[s] > 0; occurs != (share > 0) || share > 1<<15 {
				t.Fatalf("%d of %v has a share of %d", s, count, share)
			}
		}
		if sum != 1<<log || log < 5 || log > 9 {
			t.Fatalf("%v: %d shares of %d", count, sum, 1<<log)
		}
	}
}

// liar spoils what is packed, or the frame: a compressor or memory with a fault.
type liar struct {
	honest interface {
		append(dst, raw []byte) ([]byte, error)
	}
	in, out func([]byte) []byte
}

func (l liar) append(dst, raw []byte) ([]byte, error) {
	if l.in != nil {
		raw = l.in(bytes.Clone(raw))
	}
	out, err := l.honest.append(dst, raw)
	if l.out != nil {
		out = append(out[:len(dst)], l.out(out[len(dst):])...)
	}
	return out, err
}

func flipAt(at float64) func([]byte) []byte {
	return func(b []byte) []byte {
		b[int(at*float64(len(b)-1))] ^= 0x10
		return b
	}
}

// What a compressor with a fault has made never gets out.
func TestMispackedIsRefused(t *testing.T) {
	src := kinds["pages"](rand.New(rand.NewPCG(1, 2)), 200_000)
	faults := map[string]liar{
		"without its last byte": {in: func(b []byte) []byte { return b[:len(b)-1] }},
		"with one more byte":    {in: func(b []byte) []byte { return append(b, 0) }},
		"empty":                 {out: func([]byte) []byte { return nil }},
		"cut off":               {out: func(b []byte) []byte { return b[:len(b)/2] }},
	}
	for _, at := range []float64{0, 0.01, 0.3, 0.6, 0.999, 1} {
		faults[fmt.Sprintf("bit at %g", at)] = liar{in: flipAt(at)}
	}
	for _, c := range []Codec{Default, {"zstd", 9}, {Name: "lz4"}} {
		for name, l := range faults {
			e := newEncoder(t, c)
			l.honest = e.frames
			e.frames = l
			if frame, err := e.Append(nil, src); !errors.Is(err, ErrMispacked) {
				t.Errorf("%s, %s: a frame of %d bytes, %v", c, name, len(frame), err)
			}
		}
	}
}

// Whichever bit of a frame is wrong: it is refused, or the frame stands for the same data still.
func TestMispackedFrameIsRefused(t *testing.T) {
	src := kinds["pages"](rand.New(rand.NewPCG(1, 2)), 200_000)
	for _, c := range []Codec{Default, {Name: "lz4"}} {
		refused := 0
		const tries = 200
		for i := range tries {
			e := newEncoder(t, c)
			e.frames = liar{honest: e.frames, out: flipAt(float64(i) / (tries - 1))}
			if _, err := e.Append(nil, src); errors.Is(err, ErrMispacked) {
				refused++
			} else if err != nil {
				t.Errorf("%s, flip %d: %v", c, i, err)
			}
		}
		if refused < tries*9/10 {
			t.Errorf("%s: only %d of %d flips were refused", c, refused, tries)
		}
	}
}

func TestDecodeHoldsItsLimit(t *testing.T) {
	for _, c := range []Codec{Default, {Name: "lz4"}} {
		bomb, err := newEncoder(t, c).Append(nil, make([]byte, 4<<20))
		if err != nil {
			t.Fatal(err)
		}
		dec, err := NewDecoder()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dec.Decode(c, nil, bomb, 1<<20); err == nil {
			t.Errorf("%s: a frame of four times the limit was expanded", c)
		}
	}
}

func TestParse(t *testing.T) {
	for _, ok := range []string{"zstd", "zstd:1", "zstd:19", "lz4"} {
		if _, err := Parse(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "gzip", "zstd:0", "zstd:20", "zstd:", "lz4:1", "none"} {
		if c, err := Parse(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, c)
		}
	}
}

func newEncoder(t testing.TB, c Codec) *Encoder {
	t.Helper()
	e, err := NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// BenchmarkAppend tells what frames cost, with their proof and without, and what the library's would cost.
func BenchmarkAppend(b *testing.B) {
	src := kinds["pages"](rand.New(rand.NewPCG(1, 2)), 1<<20)
	proven, lz4 := newEncoder(b, Default), newEncoder(b, Codec{Name: "lz4"})
	for _, c := range []struct {
		name   string
		append func(dst, src []byte) ([]byte, error)
	}{
		{"zstd", proven.Append},
		{"zstd without its proof", proven.frames.append},
		{"zstd of the library without a proof", libraryZstd{newLibrary(1)}.append},
		{"lz4", lz4.Append},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			var dst []byte
			var err error
			for b.Loop() {
				if dst, err = c.append(dst[:0], src); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(dst))/float64(len(src)), "ratio")
		})
	}
}

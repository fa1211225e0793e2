package zframe

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Each frame is held against the library's decoder, and many against the program zstd, whose decoder is the
// format's own.

func newDecoder(t testing.TB) *zstd.Decoder {
	t.Helper()
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// check packs src as a frame behind something else, and holds what decoders make of it against src.
func check(t testing.TB, e *Encoder, d *zstd.Decoder, src []byte) []byte {
	t.Helper()
	kept := bytes.Clone(src)
	frame := e.Append([]byte("before"), src)
	if !bytes.Equal(src, kept) {
		t.Fatal("the encoder has changed its input")
	}
	if string(frame[:6]) != "before" {
		t.Fatal("the encoder has changed what stood before")
	}
	frame = frame[6:]
	got, err := d.DecodeAll(frame, nil)
	if err != nil || !bytes.Equal(got, src) {
		name := filepath.Join(os.TempDir(), "zframe-failed")
		t.Fatalf("%d bytes (in %s) come back as %d, %v, %v", len(src), name, len(got), err, os.WriteFile(name, src, 0o600))
	}
	var h zstd.Header
	if err := h.Decode(frame); err != nil || e.fast != nil && h.FrameContentSize != uint64(len(src)) || h.HasCheckSum {
		t.Fatalf("header of %d bytes: %+v, %v", len(src), h, err)
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
	d, used := newDecoder(t), New(1)
	r := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	n := 0
	for name, make := range kinds {
		var sizes []int
		for n := range 70 {
			sizes = append(sizes, n)
		}
		for _, n := range []int{100, 255, 256, 1023, 1024, 1025, 4095, 4096, 8192, 65535 + 256, 65536 + 256, maxBlock - 1, maxBlock, maxBlock + 1, maxBlock + margin, 3*maxBlock + 7, 1 << 20, 1<<20 + 1536} {
			sizes = append(sizes, n)
		}
		for _, size := range sizes {
			src := make(r, size)
			frame := check(t, used, d, src)
			if other := New(1).Append(nil, src); !bytes.Equal(frame, other) {
				t.Fatalf("%s: a new encoder makes something else of %d bytes", name, size)
			}
			if size < 65 && n%7 > 0 {
				n++
				continue // the program is slow to start
			}
			n++
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.zst", n)), frame, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.zst"))
	if err != nil || len(files) < 200 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if out, err := exec.Command("zstd", append([]string{"-q", "-t"}, files...)...).CombinedOutput(); err != nil {
		t.Fatalf("zstd refuses a frame: %v\n%s", err, out)
	}
}

// What no table of sizes has: contents of random structure.
func TestRandomContents(t *testing.T) {
	rounds := 400
	if os.Getenv("PGOBJ_TORTURE") != "" {
		rounds = 100_000
	}
	d, e := newDecoder(t), New(1)
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 1))
		check(t, e, d, kinds["copies"](r, r.IntN(1<<r.IntN(21))))
		check(t, e, d, kinds["pages and noise"](r, r.IntN(1<<r.IntN(21))))
	}
}

func FuzzAppend(f *testing.F) {
	for name := range kinds {
		f.Add(kinds[name](rand.New(rand.NewPCG(1, 1)), 3000))
	}
	e, d := New(1), newDecoder(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		check(t, e, d, src)
		check(t, e, d, bytes.Repeat(src, 1+maxBlock/(1+len(src))))
	})
}

// Frames that positions cannot tell are the library's, at every level.
func TestLevelsAndSizes(t *testing.T) {
	d := newDecoder(t)
	r := rand.New(rand.NewPCG(1, 2))
	src := kinds["pages"](r, maxFast+1)
	for _, level := range []int{0, 1, 3, 9} {
		e := New(level)
		for _, n := range []int{0, 1, 1 << 20, maxFast, maxFast + 1} {
			check(t, e, d, src[:n])
		}
		if own := e.fast != nil; own != (level < 3) {
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
		if got, err := newDecoder(t).DecodeAll(frame, nil); err != nil || !bytes.Equal(got, src) {
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

func BenchmarkAppend(b *testing.B) {
	src := kinds["pages"](rand.New(rand.NewPCG(1, 2)), 1<<20)
	for _, c := range []struct {
		name   string
		append func(dst, src []byte) []byte
	}{
		{"ours", New(1).Append},
		{"library", func(dst, src []byte) []byte { return libraryFastest.EncodeAll(src, dst) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			var dst []byte
			for b.Loop() {
				dst = c.append(dst[:0], src)
			}
			b.ReportMetric(float64(len(dst))/float64(len(src)), "ratio")
		})
	}
}

var libraryFastest = newLibrary(1)

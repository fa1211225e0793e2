package segment

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
)

// page is the first page of a segment as PostgreSQL 15 writes it.
func page(tli Timeline, at LSN, sysid uint64, size Size) []byte {
	b := make([]byte, 8192)
	le := binary.LittleEndian
	le.PutUint16(b[0:], 0xD110)
	le.PutUint16(b[2:], longHeader)
	le.PutUint32(b[4:], uint32(tli))
	le.PutUint64(b[8:], uint64(at))
	le.PutUint64(b[24:], sysid)
	le.PutUint32(b[32:], uint32(size))
	le.PutUint32(b[36:], 8192)
	return b
}

func TestClassify(t *testing.T) {
	const seg = "0000000A00000001000000FE"
	want := map[string]Type{
		seg:                            Full,
		seg + ".partial":               Partial,
		seg + ".00000028.backup":       Backup,
		"0000000A.history":             History,
		"000000000000000000000000":     Full,
		"FFFFFFFFFFFFFFFFFFFFFFFF":     Full,
		"":                             Invalid,
		"0":                            Invalid,
		seg[:23]:                       Invalid,
		seg + "0":                      Invalid,
		strings.ToLower(seg):           Invalid,
		"0000000a.history":             Invalid,
		"0000000G.history":             Invalid,
		"0000000.history":              Invalid,
		"00000000A.history":            Invalid,
		".history":                     Invalid,
		"history":                      Invalid,
		"0000000A.History":             Invalid,
		"0000000A.history.tmp":         Invalid,
		"0000000A.history/":            Invalid,
		"../0000000A.history":          Invalid,
		"./0000000A.history":           Invalid,
		"0000000A.history\n":           Invalid,
		" 0000000A.history":            Invalid,
		"0000000A.history.history":     Invalid,
		"+000000A.history":             Invalid,
		"0x00000A.history":             Invalid,
		"../" + seg:                    Invalid,
		"pg_wal/" + seg:                Invalid,
		"/" + seg:                      Invalid,
		seg + "/":                      Invalid,
		seg + "\n":                     Invalid,
		seg + "\x00":                   Invalid,
		seg + " ":                      Invalid,
		seg + ".":                      Invalid,
		seg + ".zst":                   Invalid,
		seg + ".gz":                    Invalid,
		seg + ".ready":                 Invalid,
		seg + ".done":                  Invalid,
		seg + ".partial.partial":       Invalid,
		seg + ".Partial":               Invalid,
		seg + ".PARTIAL":               Invalid,
		seg + "partial":                Invalid,
		seg[:23] + ".partial":          Invalid,
		".partial":                     Invalid,
		"..partial":                    Invalid,
		seg + ".backup":                Invalid,
		seg + "..backup":               Invalid,
		seg + ".0000002.backup":        Invalid,
		seg + ".000000280.backup":      Invalid,
		seg + ".0000002g.backup":       Invalid,
		seg + ".00000028.backup.old":   Invalid,
		seg + ".00000028.00000028":     Invalid,
		seg + ".00000028.x.backup":     Invalid,
		seg[:23] + ".00000028.backup":  Invalid,
		".00000028.backup":             Invalid,
		"RECOVERYXLOG":                 Invalid,
		"RECOVERYHISTORY":              Invalid,
		"xlogtemp.1234":                Invalid,
		"archive_status":               Invalid,
		"00000001000000000000000١":     Invalid,
		"%f":                           Invalid,
		"..":                           Invalid,
		strings.Repeat("0", 300):       Invalid,
		seg + strings.Repeat(".0", 99): Invalid,
	}
	if len(want) < 60 {
		t.Fatalf("%d names, planned were 60", len(want))
	}
	for name, typ := range want {
		if got := Classify(name); got != typ {
			t.Errorf("Classify(%q) = %d, want %d", name, got, typ)
		}
	}
}

func TestNamesOfEverySize(t *testing.T) {
	for size := Size(1 << 20); size <= 1<<30; size <<= 1 {
		for _, no := range []uint64{1, size.perID() - 1, size.perID(), 7*size.perID() + 3, math.MaxUint32*size.perID() + size.perID() - 1} {
			s := Segment{0x1A, no}
			got, err := ParseName(s.Name(size), size)
			if err != nil || got != s {
				t.Errorf("size %d, segment %d: name %s gives %v, %v", size, no, s.Name(size), got, err)
			}
			if At(s.Timeline, s.Start(size), size) != s || Before(s.Timeline, s.Next().Start(size), size) != s {
				t.Errorf("size %d, segment %d: its bytes are not in it", size, no)
			}
		}
	}
	if _, err := ParseName("000000010000000000000100", 16<<20); err == nil {
		t.Error("a name that does not occur with 16 MiB was accepted")
	}
	if got, err := ParseName("000000010000000000000100", 1<<20); err != nil || got.No != 256 {
		t.Errorf("with 1 MiB: %v, %v", got, err)
	}
}

func TestHeader(t *testing.T) {
	const name, size = "000000020000000000000007", 16 << 20
	good := page(2, 7*size, 42, size)
	h, err := ParseHeader(good)
	if err != nil || h.SystemID != 42 || h.Version() != 15 {
		t.Fatalf("%+v, %v", h, err)
	}
	older, _ := ParseHeader(page(1, 7*size, 42, size)) // copied from the parent timeline
	for _, h := range []Header{h, older} {
		for _, n := range []string{name, name + ".partial"} {
			if err := h.Verify(n, size); err != nil {
				t.Errorf("%s: %v", n, err)
			}
		}
	}
	bad := map[string]error{
		"short file": h.Verify(name, size/2), "long file": h.Verify(name, size+1),
		"other segment": h.Verify("000000020000000000000008", size), "older timeline": h.Verify("000000010000000000000007", size),
		"history": h.Verify("00000002.history", size), "impossible name": h.Verify("000000020000000000000107", size),
	}
	for what, b := range map[string][]byte{
		"nothing": nil, "39 bytes": good[:39], "zeros": make([]byte, 8192), "odd size": page(2, 7*size, 42, size-1),
		"tiny size": page(2, 0, 42, 1<<19), "no system": page(2, 7*size, 0, size), "no timeline": page(0, 7*size, 42, size),
		"HTML": []byte("<!DOCTYPE html><html><head><title>Please log in</title></head></html>"),
	} {
		_, bad[what] = ParseHeader(b)
	}
	for what, err := range bad {
		if !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %v", what, err)
		}
	}
	new := page(2, 7*size, 42, size)
	new[0] ^= 0xFF
	if h, err := ParseHeader(new); err != nil || h.Version() != 0 || h.Verify(name, size) != nil {
		t.Errorf("a later version's magic is refused: %v", err)
	}
}

func TestHistory(t *testing.T) {
	text := "1\t0/5000000\tno recovery target specified\n\n# a comment\n  3\tA/B00000C8\tbefore 2026-11-21 01:45:00+00\n"
	h, err := ParseHistory(0x11, []byte(text))
	if err != nil || len(h) != 2 || h[1].Switch != 0xA_B00000C8 || h[0].Reason != "no recovery target specified" {
		t.Fatalf("%+v, %v", h, err)
	}
	if h[0].Timeline != 1 || h[0].Switch != 0x5000000 || h[1].Timeline != 3 {
		t.Errorf("%+v", h)
	}
	for _, bad := range []string{"", "\n", "# nothing\n", "1\n", "x\t0/5\n", "1\t5\n", "0\t0/5\n", "-1\t0/5\n", "17\t0/5\n", "18\t0/5\n",
		"2\t0/5\tr\n1\t0/6\tr\n", "1\t0/5\tr\n1\t0/6\tr\n", "<html>404</html>", "4294967296\t0/5\n", "\x00\x00"} {
		if h, err := ParseHistory(0x11, []byte(bad)); err == nil {
			t.Errorf("%q gives %+v", bad, h)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("0000000A00000001000000FE", uint8(24))
	f.Add("0000000A.history", uint8(20))
	f.Fuzz(func(t *testing.T, name string, bits uint8) {
		size := Size(1) << (20 + bits%11)
		s, err := ParseName(name, size)
		if err != nil {
			return
		}
		if s.Name(size) != name || Classify(name) != Full {
			t.Errorf("%q parses as %v, whose name is %s", name, s, s.Name(size))
		}
	})
}

func FuzzParseLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Add("0/00000028")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLSN(s)
		if err != nil {
			return
		}
		if again, err := ParseLSN(l.String()); err != nil || again != l {
			t.Errorf("%q is %v, which is %v, %v", s, l, again, err)
		}
		if hi, lo, _ := strings.Cut(s, "/"); strings.ContainsAny(hi+lo, "+-_xX ") {
			t.Errorf("%q was accepted", s)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	f.Add(page(1, 0x1000000, 42, 16<<20), "000000010000000000000001", int64(16<<20))
	f.Fuzz(func(t *testing.T, b []byte, name string, size int64) {
		h, err := ParseHeader(b)
		if err != nil || h.Verify(name, size) != nil {
			return
		}
		seg, err := ParseName(strings.TrimSuffix(name, ".partial"), h.Size)
		if err != nil || seg.Start(h.Size) != h.Address || size != int64(h.Size) {
			t.Errorf("%+v was accepted for %q of %d bytes", h, name, size)
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(3), []byte("1\t0/5000000\tno recovery target specified\n2\tA/B\tx\n"))
	f.Fuzz(func(t *testing.T, tli uint32, data []byte) {
		h, err := ParseHistory(Timeline(tli), data)
		if err != nil {
			return
		}
		last := Timeline(0)
		for _, a := range h {
			if a.Timeline <= last || a.Timeline >= Timeline(tli) {
				t.Errorf("timeline %d has the ancestors %+v", tli, h)
			}
			last = a.Timeline
		}
	})
}

package datadir

import (
	"strings"
	"testing"
)

const labelOf18 = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000080\n" +
	"BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-01-02 03:04:05 CET\nLABEL: a: b\nSTART TIMELINE: 1\n"

func TestParseLabel(t *testing.T) {
	l, err := ParseLabel([]byte(labelOf18))
	want := Label{0x2000028, "000000010000000000000002", 0x2000080, "streamed", "primary", "2026-01-02 03:04:05 CET", "a: b", 1, false}
	if err != nil || l != want {
		t.Errorf("%+v, %v", l, err)
	}
	l, err = ParseLabel([]byte(strings.Replace(labelOf18, "START TIMELINE: 1\n", "", 1))) // up to 10
	if err != nil || l.Timeline != 1 {
		t.Errorf("without a timeline: %+v, %v", l, err)
	}
	l, err = ParseLabel([]byte(labelOf18 + "INCREMENTAL FROM LSN: 0/02000028\nINCREMENTAL FROM TLI: 1\n"))
	if err != nil || !l.Incremental {
		t.Errorf("incremental: %+v, %v", l, err)
	}
	l, err = ParseLabel([]byte(strings.Replace(labelOf18, "0/2000028", "0/02000028", 1))) // from 19
	if err != nil || l.StartLSN != 0x2000028 {
		t.Errorf("padded LSN: %+v, %v", l, err)
	}
	for _, bad := range [][2]string{
		{"START WAL LOCATION", "WAL LOCATION"}, {"CHECKPOINT LOCATION", "LOCATION"}, {"0/2000028", "2000028"},
		{"0/2000080", "x"}, {"000000010000000000000002", "0000000100000002"}, {" (file", ""}, {"02)", "02"},
		{"TIMELINE: 1", "TIMELINE: 2"}, {"TIMELINE: 1", "TIMELINE: x"},
	} {
		if l, err := ParseLabel([]byte(strings.Replace(labelOf18, bad[0], bad[1], 1))); err == nil {
			t.Errorf("%q for %q is accepted: %+v", bad[1], bad[0], l)
		}
	}
}

func FuzzParseLabel(f *testing.F) {
	f.Add([]byte(labelOf18))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ParseLabel(b); err == nil && len(l.StartFile) != 24 {
			t.Errorf("%+v", l)
		}
	})
}

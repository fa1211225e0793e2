package replay

import (
	"slices"
	"testing"

	"github.com/pgobj/pgobj/walstore/segment"
)

func change(at segment.LSN, kind string, ids ...uint32) segment.DirectoryChange {
	d := segment.DirectoryChange{At: at, Kind: kind, Database: ids[0], Tablespace: ids[1]}
	if len(ids) == 4 {
		d.FromDatabase, d.FromTablespace = ids[2], ids[3]
	}
	return d
}

func TestFind(t *testing.T) {
	const copied, created, dropped = segment.DirectoryCopied, segment.DirectoryCreated, segment.DirectoryDropped
	type changes = []segment.DirectoryChange
	for name, c := range map[string]struct {
		all     changes
		changed map[uint32]segment.LSN
		version int
		lost    []uint32
	}{
		"from a template that stays":             {all: changes{change(10, copied, 5, 1, 2, 1)}},
		"the template changed before":            {all: changes{change(10, copied, 5, 1, 2, 1)}, changed: map[uint32]segment.LSN{2: 9, 5: 20}},
		"the template changes":                   {all: changes{change(10, copied, 5, 1, 2, 1)}, changed: map[uint32]segment.LSN{2: 11}, lost: []uint32{5}},
		"the template is dropped":                {all: changes{change(10, copied, 5, 1, 2, 1), change(20, dropped, 2, 1)}, lost: []uint32{5}},
		"another is dropped":                     {all: changes{change(10, copied, 5, 1, 2, 1), change(20, dropped, 3, 1), change(21, dropped, 2, 9)}},
		"moved":                                  {all: changes{change(10, copied, 5, 9, 5, 1), change(20, dropped, 5, 1)}, lost: []uint32{5}},
		"moved and dropped":                      {all: changes{change(10, copied, 5, 9, 5, 1), change(20, dropped, 5, 1), change(30, dropped, 5, 9)}},
		"moved and dropped, but replay stops":    {all: changes{change(10, copied, 5, 9, 5, 1), change(20, dropped, 5, 1), change(30, dropped, 5, 9)}, version: 130007, lost: []uint32{5}},
		"moved there and back":                   {all: changes{change(10, copied, 5, 9, 5, 1), change(20, dropped, 5, 1), change(30, copied, 5, 1, 5, 9), change(40, dropped, 5, 9)}, lost: []uint32{5}},
		"a copy of a copy, which is dropped":     {all: changes{change(10, copied, 5, 1, 2, 1), change(20, copied, 6, 1, 5, 1), change(30, dropped, 5, 1)}, changed: map[uint32]segment.LSN{5: 25}},
		"a copy of a copy of a dropped one":      {all: changes{change(10, copied, 5, 1, 2, 1), change(20, copied, 6, 1, 5, 1), change(30, dropped, 2, 1)}, lost: []uint32{5, 6}},
		"a copy of one whose WAL is there":       {all: changes{change(10, created, 5, 1), change(20, copied, 6, 1, 5, 1), change(30, dropped, 5, 1)}, changed: map[uint32]segment.LSN{5: 19}},
		"and that changes":                       {all: changes{change(10, created, 5, 1), change(20, copied, 6, 1, 5, 1)}, changed: map[uint32]segment.LSN{5: 21}, lost: []uint32{6}},
		"one that was made after it was dropped": {all: changes{change(10, dropped, 5, 1), change(20, copied, 5, 1, 2, 1)}},
	} {
		version := c.version
		if version == 0 {
			version = 130008
		}
		var got []uint32
		for _, l := range Find(Request{Directories: c.all, Changed: c.changed, Version: version}) {
			got = append(got, l.Database)
		}
		if !slices.Equal(got, c.lost) {
			t.Errorf("%s: %v, want %v", name, got, c.lost)
		}
	}
}

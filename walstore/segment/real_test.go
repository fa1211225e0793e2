package segment

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
)

// One walk meets every record of what PostgreSQL has written: each names the one before it, from the first segment to the end of the WAL,
// and what is asked of them is what the server has done.
func TestScanOfRealSegments(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: major, Conf: []string{"max_prepared_transactions = 5", "archive_mode = on"}})
			c.SQL(t, `SELECT pg_create_restore_point('first')`)
			c.SQL(t, `CREATE TABLE a AS SELECT g, repeat('x', g % 2000) FROM generate_series(1, 3000) g`)
			c.SQL(t, `CREATE INDEX ON a (g)`)
			c.SQL(t, `CREATE DATABASE other`)
			for i := range 50 {
				c.SQL(t, fmt.Sprintf(`SELECT pg_logical_emit_message(false, '', repeat('y', %d))`, 997*i))
			}
			c.SQL(t, `BEGIN; INSERT INTO a VALUES (1); PREPARE TRANSACTION 'p'`)
			c.SQL(t, `COMMIT PREPARED 'p'`)
			c.SQL(t, `SELECT pg_switch_wal()`)
			c.SQL(t, `DROP DATABASE other`)
			c.SQL(t, `UPDATE a SET g = g + 1`)
			c.SQL(t, `SELECT pg_create_restore_point('last')`)
			c.Stop(t, "fast")
			checkWAL(t, filepath.Join(c.Data, "pg_wal"))
		})
	}
}

func checkWAL(t *testing.T, dir string) {
	names, err := filepath.Glob(filepath.Join(dir, "0000*"))
	if err != nil {
		t.Fatal(err)
	}
	var before LSN
	var points []string
	for i, name := range names {
		data, after := read(t, name), []byte(nil)
		if i+1 < len(names) {
			after = read(t, names[i+1])
		}
		if h, err := ParseHeader(data); err != nil || h.Verify(filepath.Base(name), int64(len(data))) != nil {
			continue // made ahead
		}
		s, err := NewScan(bytes.NewReader(data), nil, bytes.NewReader(after))
		if err != nil {
			t.Fatal(err)
		}
		for r := range s.Sound() {
			if before > 0 && r.previous() != before {
				t.Fatalf("%s: after the record at %s comes that at %s, which names %s", name, before, r.At, r.previous())
			}
			before = r.At
		}
		err = Marks(bytes.NewReader(data), bytes.NewReader(after), func(m Mark) {
			if m.Point {
				points = append(points, m.Name)
			}
			if age := time.Since(m.Time); age < 0 || age > time.Hour {
				t.Errorf("%+v", m)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(points, []string{"first", "last"}) {
		t.Errorf("restore points %q", points)
	}
}

func read(t *testing.T, name string) []byte {
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

package datadir

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

var update = flag.Bool("update", false, "make testdata/pg_control.* again, with servers of all versions")

const (
	controlFile = ControlPath
	controlSize = 8192 // of the file
)

// serverControl is pg_control as the server itself reads it.
const serverControl = `
	SELECT system_identifier, pg_control_version, catalog_version_no, extract(epoch FROM pg_control_last_modified)::bigint,
	  checkpoint_lsn, redo_lsn, timeline_id, prev_timeline_id, full_page_writes, extract(epoch FROM checkpoint_time)::bigint,
	  min_recovery_end_lsn, min_recovery_end_timeline, backup_start_lsn, backup_end_lsn, end_of_backup_record_required,
	  database_block_size, blocks_per_segment, bytes_per_wal_segment, data_page_checksum_version
	FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery(), pg_control_init()`

// controlText is a Control in the same form.
func controlText(c Control) string {
	b := map[bool]string{true: "t", false: "f"}
	f := []any{int64(c.SystemID), c.Version, c.CatalogVersion, c.Modified.Unix(),
		c.Checkpoint, c.Redo, uint32(c.Timeline), uint32(c.PrevTimeline), b[c.FullPageWrites], c.CheckpointTime.Unix(),
		c.MinRecoveryPoint, uint32(c.MinRecoveryTimeline), c.BackupStart, c.BackupEnd, b[c.BackupEndRequired],
		c.BlockSize, c.SegmentBlocks, uint64(c.SegmentSize), c.ChecksumVersion}
	s := make([]string, len(f))
	for i := range f {
		s[i] = fmt.Sprint(f[i])
	}
	return strings.Join(s, "|")
}

func TestControlFilesOfAllVersions(t *testing.T) {
	for major := 10; major <= 18; major++ {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			file := fmt.Sprintf("testdata/pg_control.%d", major)
			if *update {
				makeGolden(t, file, major)
			}
			raw, want := read(t, file), strings.TrimSpace(string(read(t, file+".txt")))
			c, err := ParseControl(raw)
			if err != nil {
				t.Fatal(err)
			}
			if got := controlText(c); got != want || c.State != InProduction || c.Partial {
				t.Errorf("parsed:       %s (%v)\nthe server's: %s", got, c.State, want)
			}
			for i := range raw {
				bad := append([]byte(nil), raw...)
				if bad[i] ^= 0x10; i < controlCRCEnd(raw) {
					if _, err := ParseControl(bad); !errors.Is(err, ErrControl) {
						t.Fatalf("byte %d changed: %v, want ErrControl", i, err)
					}
				}
			}
			// The same file as a version from the future would write it.
			binary.LittleEndian.PutUint32(raw[8:], 2100)
			end := controlCRCEnd(raw)
			binary.LittleEndian.PutUint32(raw[end-4:], crc32.Checksum(raw[:end-4], crc32.MakeTable(crc32.Castagnoli)))
			c, err = ParseControl(raw)
			if err != nil || !c.Partial || c.SystemID == 0 {
				t.Errorf("unknown version: %+v, %v", c, err)
			}
		})
	}
}

// controlCRCEnd is the end of what is not zero, which is the end of the CRC (no golden file's CRC ends in
// a zero byte).
func controlCRCEnd(raw []byte) int { return len(strings.TrimRight(string(raw), "\x00")) }

func makeGolden(t *testing.T, file string, major int) {
	c := pgtest.Start(t, pgtest.Options{Major: major, Checksums: true})
	c.Exec(t, "CHECKPOINT")
	want := c.SQL(t, serverControl)
	raw := read(t, filepath.Join(c.Data, controlFile))[:controlMaxData]
	for name, content := range map[string][]byte{file: raw, file + ".txt": []byte(want + "\n")} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadControl(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: major, Template: true})
			ctl, raw, err := ReadControl(c.Data)
			if err != nil || len(raw) != controlSize {
				t.Fatalf("%d bytes, %v", len(raw), err)
			}
			if got, want := controlText(ctl), c.SQL(t, serverControl); got != want {
				t.Errorf("parsed:       %s\nthe server's: %s", got, want)
			}
			if major != 15 { // the others come without pg_controldata
				return
			}
			out := pgtest.Run(t, c.Bin("pg_controldata"), c.Data)
			for _, line := range []string{
				fmt.Sprintf("Database system identifier: %d", ctl.SystemID),
				"Database cluster state: " + ctl.State.String(),
				fmt.Sprintf("Latest checkpoint location: %s", ctl.Checkpoint),
				fmt.Sprintf("Latest checkpoint's TimeLineID: %d", ctl.Timeline),
				fmt.Sprintf("Bytes per WAL segment: %d", ctl.SegmentSize),
			} {
				if !strings.Contains(strings.Join(strings.Fields(out), " "), line) {
					t.Errorf("pg_controldata does not say %q:\n%s", line, out)
				}
			}
		})
	}
	if _, _, err := ReadControl(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
}

func FuzzParseControl(f *testing.F) {
	for _, major := range []int{10, 12, 18} {
		raw, err := os.ReadFile(fmt.Sprintf("testdata/pg_control.%d", major))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseControl(b); err == nil && !c.Partial && !c.SegmentSize.Valid() {
			t.Errorf("accepted a segment size of %d", c.SegmentSize)
		}
	})
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

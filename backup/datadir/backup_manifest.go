package datadir

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
	"unicode/utf8"

	"github.com/pgobj/pgobj/walstore/segment"
)

// ManifestWriter writes PostgreSQL's own backup_manifest, so that pg_verifybackup can check a restored
// backup and pg_combinebackup can use it. It streams: a million files cost no memory. Call File for each
// file, then WALRange for each timeline, then Close. The first error makes every later call fail.
//
// pg_wal's files and backup_manifest itself are not listed; backup_label and tablespace_map are.
type ManifestWriter struct {
	out     *bufio.Writer // to the caller's writer
	sum     hash.Hash     // of all that was written
	entries int           // in the list that is open
	ranges  bool          // the list that is open is WAL-Ranges
}

// NewManifestWriter begins a manifest of version 1 (PostgreSQL 13 to 16) or 2 (17 and later, which holds
// the system identifier).
func NewManifestWriter(w io.Writer, version int, systemID uint64) *ManifestWriter {
	m := &ManifestWriter{out: bufio.NewWriterSize(w, 64<<10), sum: sha256.New()}
	m.printf("{ \"PostgreSQL-Backup-Manifest-Version\": %d,\n", version)
	if version == 2 {
		m.printf("\"System-Identifier\": %d,\n", systemID)
	}
	m.printf("\"Files\": [")
	return m
}

// File adds a file: its path in the backup (slashes, raw bytes; pg_tblspc/OID/… for tablespaces), its
// size, and the CRC-32C of its content.
func (m *ManifestWriter) File(path string, size int64, mtime time.Time, crc32c uint32) error {
	// PostgreSQL prints the four bytes of the checksum as they lie in memory, the lowest first.
	crc := [4]byte{byte(crc32c), byte(crc32c >> 8), byte(crc32c >> 16), byte(crc32c >> 24)}
	return m.file(path, size, mtime, fmt.Sprintf(`"Checksum-Algorithm": "CRC32C", "Checksum": "%x"`, crc))
}

// FileWithoutChecksum adds a file whose content was not read as a whole.
func (m *ManifestWriter) FileWithoutChecksum(path string, size int64, mtime time.Time) error {
	return m.file(path, size, mtime, `"Checksum-Algorithm": "NONE"`)
}

func (m *ManifestWriter) file(path string, size int64, mtime time.Time, checksum string) error {
	if m.ranges {
		return errors.New("write backup_manifest: a file after the WAL ranges")
	}
	key, value := "Path", []byte(nil)
	if utf8.ValidString(path) {
		value, _ = json.Marshal(path) // a string cannot fail
	} else {
		key, value = "Encoded-Path", fmt.Appendf(nil, `"%x"`, path)
	}
	m.separate()
	return m.printf(`{ "%s": %s, "Size": %d, "Last-Modified": "%s GMT", %s }`, key, value, size, mtime.UTC().Format(time.DateTime), checksum)
}

// WALRange adds the WAL that the backup needs of one timeline: the bytes from start up to end. The newest
// timeline comes first.
func (m *ManifestWriter) WALRange(tli segment.Timeline, start, end segment.LSN) error {
	m.beginRanges()
	m.separate()
	return m.printf(`{ "Timeline": %d, "Start-LSN": "%s", "End-LSN": "%s" }`, tli, start, end)
}

// Close ends the manifest with its checksum. It does not close the underlying writer.
func (m *ManifestWriter) Close() error {
	m.beginRanges()
	m.printf("\n],\n")
	m.printf("\"Manifest-Checksum\": \"%s\"}\n", hex.EncodeToString(m.sum.Sum(nil)))
	return m.out.Flush()
}

func (m *ManifestWriter) beginRanges() {
	if !m.ranges {
		m.printf("\n],\n\"WAL-Ranges\": [")
		m.ranges, m.entries = true, 0
	}
}

func (m *ManifestWriter) separate() {
	if m.entries++; m.entries > 1 {
		m.printf(",")
	}
	m.printf("\n")
}

// printf returns the first error of all.
func (m *ManifestWriter) printf(format string, args ...any) error {
	b := fmt.Appendf(nil, format, args...)
	m.sum.Write(b)
	_, err := m.out.Write(b)
	return err
}

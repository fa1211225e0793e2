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
	err     error
	entries int  // in the list that is open
	ranges  bool // the list that is open is WAL-Ranges
}

// NewManifestWriter begins a manifest of version 1 (PostgreSQL 13 to 16) or 2 (17 and later, which holds
// the system identifier).
func NewManifestWriter(w io.Writer, version int, systemID uint64) *ManifestWriter {
	m := &ManifestWriter{out: bufio.NewWriterSize(w, 64<<10), sum: sha256.New()}
	m.printf("{ \"PostgreSQL-Backup-Manifest-Version\": %d,\n", version)
	switch version {
	case 1:
	case 2:
		m.printf("\"System-Identifier\": %d,\n", systemID)
	default:
		m.err = fmt.Errorf("backup_manifest version %d is not known", version)
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
		return m.fail(errors.New("a file after the WAL ranges"))
	}
	key, value := "Path", []byte(nil)
	if utf8.ValidString(path) {
		value, _ = json.Marshal(path) // a string cannot fail
	} else {
		key, value = "Encoded-Path", fmt.Appendf(nil, `"%x"`, path)
	}
	m.separate()
	m.printf(`{ "%s": %s, "Size": %d, "Last-Modified": "%s GMT", %s }`, key, value, size, mtime.UTC().Format(time.DateTime), checksum)
	return m.err
}

// WALRange adds the WAL that the backup needs of one timeline: the bytes from start up to end. The newest
// timeline comes first.
func (m *ManifestWriter) WALRange(tli segment.Timeline, start, end segment.LSN) error {
	m.beginRanges()
	m.separate()
	m.printf(`{ "Timeline": %d, "Start-LSN": "%s", "End-LSN": "%s" }`, tli, start, end)
	return m.err
}

// Close ends the manifest with its checksum. It does not close the underlying writer.
func (m *ManifestWriter) Close() error {
	m.beginRanges()
	m.printf("\n],\n")
	m.printf("\"Manifest-Checksum\": \"%s\"}\n", hex.EncodeToString(m.sum.Sum(nil)))
	if err := m.out.Flush(); err != nil {
		m.fail(err)
	}
	return m.err
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

func (m *ManifestWriter) printf(format string, args ...any) {
	b := fmt.Appendf(nil, format, args...)
	m.sum.Write(b)
	if _, err := m.out.Write(b); err != nil {
		m.fail(err)
	}
}

func (m *ManifestWriter) fail(err error) error {
	if m.err == nil {
		m.err = fmt.Errorf("write backup_manifest: %w", err)
	}
	return m.err
}

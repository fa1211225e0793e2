package pgtest

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
)

// SetRedo writes into the pg_control of a data directory that the last checkpoint's redo is at lsn, or as far as it was
// already, as a server does that starts a backup: for tests that play the server. Readers see the old file or the new
// one; writers take turns by themselves.
func SetRedo(dataDir string, lsn uint64) error {
	return editControl(dataDir, func(raw []byte) {
		redo := raw[40:] // from version 1100 on
		binary.LittleEndian.PutUint64(redo, max(lsn, binary.LittleEndian.Uint64(redo)))
	})
}

// SetChecksums writes into the pg_control of a stopped server that its pages have checksums: what pg_checksums --enable
// does in the end. The pages are the caller's.
func SetChecksums(dataDir string) error {
	return editControl(dataDir, func(raw []byte) {
		at := len(raw) - 36 // before the nonce of 32 bytes
		if binary.LittleEndian.Uint32(raw[8:]) >= 1800 {
			at -= 4 // and before default_char_signedness
		}
		binary.LittleEndian.PutUint32(raw[at:], 1)
	})
}

// editControl changes what is in pg_control, from its beginning up to and without its CRC.
func editControl(dataDir string, edit func(raw []byte)) error {
	name := filepath.Join(dataDir, "global", "pg_control")
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	for end := 256; end+4 <= min(len(raw), 512); end += 4 { // the CRC is of all that is before it
		if crc32.Checksum(raw[:end], table) == binary.LittleEndian.Uint32(raw[end:]) {
			edit(raw[:end])
			binary.LittleEndian.PutUint32(raw[end:], crc32.Checksum(raw[:end], table))
			if err := os.WriteFile(name+".new", raw, 0o600); err != nil {
				return err
			}
			return os.Rename(name+".new", name)
		}
	}
	return errors.New("pg_control: its CRC was not found")
}

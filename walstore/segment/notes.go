package segment

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"slices"
)

// Parameters is a record that the server writes when it starts with other settings than before, or takes over
// (XLOG_PARAMETER_CHANGE, XLogReportParameters in xlog.c).
type Parameters struct {
	At                      LSN    `json:"at"` // where the record begins
	WALLevel                string `json:"wal_level"`
	MaxConnections          int32  `json:"max_connections"`
	MaxWorkerProcesses      int32  `json:"max_worker_processes"`
	MaxWALSenders           int32  `json:"max_wal_senders,omitempty"` // none before PostgreSQL 12
	MaxPreparedTransactions int32  `json:"max_prepared_transactions"`
	MaxLocksPerTransaction  int32  `json:"max_locks_per_transaction"`
}

// Minimal says that what follows was written under wal_level = minimal: recovery loses data there (up to 13), or stops
// (CheckRequiredParameterValues).
func (p Parameters) Minimal() bool { return p.WALLevel == WALLevel(0) }

// WALLevel is the name of a WalLevel (xlog.h).
func WALLevel(n uint32) string {
	if names := [...]string{"minimal", "replica", "logical"}; int(n) < len(names) {
		return names[n]
	}
	return ""
}

// DirectoryChange is a record that makes or removes the directory of a database in a tablespace (dbcommands_xlog.h).
type DirectoryChange struct {
	At             LSN    `json:"at"` // where the record begins
	Kind           string `json:"kind"`
	Database       uint32 `json:"database"` // OIDs
	Tablespace     uint32 `json:"tablespace"`
	FromDatabase   uint32 `json:"from_database,omitempty"` // of a copy
	FromTablespace uint32 `json:"from_tablespace,omitempty"`
}

// The kinds of a DirectoryChange.
const (
	DirectoryCopied  = "copied"  // replay copies another directory, as it is then
	DirectoryCreated = "created" // what is in it follows in the WAL
	DirectoryDropped = "dropped"
)

// Notes is what a segment has of records that matter to those who do not read it.
type Notes struct {
	Parameters  []Parameters      `json:"parameters,omitempty"`
	Directories []DirectoryChange `json:"directories,omitempty"`
	Cut         *Cut              `json:"cut,omitempty"`
}

// Cut is the beginning of such a record that ends in the next segment.
type Cut struct {
	At    LSN    `json:"at"`
	Magic uint16 `json:"magic"` // of the segment's pages
	Bytes string `json:"bytes"` // hexadecimal
}

// Empty says that there is nothing to note.
func (n Notes) Empty() bool { return len(n.Parameters) == 0 && len(n.Directories) == 0 && n.Cut == nil }

// ByKind takes them apart: those of settings, and those of directories.
func (n Notes) ByKind() (parameters, directories Notes) {
	parameters.Parameters, directories.Directories = n.Parameters, n.Directories
	if n.Cut != nil {
		head, _ := hex.DecodeString(n.Cut.Bytes)
		if len(head) >= recordHeader && head[17] == rmXLOG {
			parameters.Cut = n.Cut
		} else {
			directories.Cut = n.Cut
		}
	}
	return parameters, directories
}

// Complete adds the record that was cut, from the beginning of the next segment; nothing where that goes on otherwise.
func (n *Notes) Complete(next []byte) {
	h, err := ParseHeader(next)
	if n.Cut == nil || err != nil || h.Magic != n.Cut.Magic {
		return
	}
	head, err := hex.DecodeString(n.Cut.Bytes)
	rest := int(binary.LittleEndian.Uint32(next[16:]))
	if err != nil || len(head) < recordHeader || rest > maxNoted || len(next) < HeaderSize+rest || len(head)+rest != int(binary.LittleEndian.Uint32(head)) {
		return
	}
	record := append(head, next[HeaderSize:HeaderSize+rest]...)
	if soundRecord(record) {
		n.note(record, n.Cut.At, h.Version())
	}
	n.Cut = nil
}

const (
	parameterChange = 0x60

	// maxNoted is more than any record that is noted has: the drop of a database that lies in 1000 tablespaces.
	maxNoted = 4096
)

// Noter finds the notes of a segment that is written to it, in one pass over the headers of its records.
type Noter struct {
	walk
	found Notes
}

// Write takes the next whole pages of a segment, from its first one on. It never fails; what is no WAL has no notes.
func (n *Noter) Write(p []byte) (int, error) {
	if n.keep == nil {
		h, err := ParseHeader(p)
		n.head, n.ended, n.at, n.keep = h, err != nil, h.Address, mayBeNoted
	}
	for rest := p; !n.ended && len(rest) > 0; {
		size := min(int(n.head.PageSize), len(rest))
		n.page(rest[:size], n.take)
		rest = rest[size:]
	}
	return len(p), nil
}

// mayBeNoted judges by the beginning of a record.
func mayBeNoted(begin []byte, total int) bool {
	return total <= maxNoted && (len(begin) < recordHeader || isNoted(begin[16], begin[17]))
}

func (n *Noter) take(r Record) bool {
	if r.End > 0 && isNoted(r.data[16], r.data[17]) && r.sound() {
		n.found.note(r.data, r.At, n.head.Version())
	}
	return true
}

func isNoted(info, rm byte) bool {
	return rm == rmDatabase || rm == rmXLOG && info&opMask == parameterChange
}

// headless notes the record of which only 8 or 16 bytes are in the segment before: what tells its kind is in this one. Its CRC
// cannot be checked without those; but all of its lengths, and the place of the record before it, have to fit.
func (n *Notes) headless(h Header, tail []byte) {
	for before := 8; before <= 16; before += 8 {
		r := append(make([]byte, before), tail...)
		if len(r) < recordHeader+2 {
			continue
		}
		le := binary.LittleEndian
		le.PutUint32(r, uint32(len(r)))
		previous := LSN(le.Uint64(r[8:16]))
		known := before == 16 || previous < h.Address && previous+LSN(h.Size)*64 > h.Address
		if le.Uint16(r[18:]) == 0 && isNoted(r[16], r[17]) && known {
			n.note(r, h.Address-LSN(before), h.Version())
		}
	}
}

// Notes is what was found, when all of the segment was written.
func (n *Noter) Notes() Notes {
	var found Notes
	found.headless(n.head, n.tail)
	found.Parameters, found.Directories = append(found.Parameters, n.found.Parameters...), append(found.Directories, n.found.Directories...)
	if r := n.open.data; len(r) >= recordHeader && n.at == n.border() && isNoted(r[16], r[17]) {
		found.Cut = &Cut{n.open.At, n.head.Magic, hex.EncodeToString(r)}
	}
	return found
}

// note reads a record by the rules of a major version (0: the newest).
func (n *Notes) note(r []byte, at LSN, major int) {
	data := mainData(r[recordHeader:])
	var v []uint32
	for i := 0; i+4 <= len(data); i += 4 {
		v = append(v, binary.LittleEndian.Uint32(data[i:]))
	}
	if r[17] == rmXLOG {
		n.noteParameters(v, at, major)
		return
	}
	op := r[16] & opMask
	switch {
	case op == 0x00 && len(v) == 4: // XLOG_DBASE_CREATE, from 15 on _FILE_COPY
		n.directory(DirectoryChange{At: at, Kind: DirectoryCopied, Database: v[0], Tablespace: v[1], FromDatabase: v[2], FromTablespace: v[3]})
	case op == 0x10 && (major >= 15 || major == 0) && len(v) == 2: // XLOG_DBASE_CREATE_WAL_LOG
		n.directory(DirectoryChange{At: at, Kind: DirectoryCreated, Database: v[0], Tablespace: v[1]})
	case len(v) == 2 && major != 0 && major < 13: // XLOG_DBASE_DROP
		n.directory(DirectoryChange{At: at, Kind: DirectoryDropped, Database: v[0], Tablespace: v[1]})
	case len(v) > 2 && len(v) == 2+int(v[1]):
		for _, tablespace := range v[2:] {
			n.directory(DirectoryChange{At: at, Kind: DirectoryDropped, Database: v[0], Tablespace: tablespace})
		}
	}
}

func (n *Notes) directory(d DirectoryChange) { n.Directories = append(n.Directories, d) }

// noteParameters reads an xl_parameter_change (xlog_internal.h), which has max_wal_senders from 12 on.
func (n *Notes) noteParameters(v []uint32, at LSN, major int) {
	old := major != 0 && major < 12
	switch {
	case len(v) != map[bool]int{true: 6, false: 7}[old]:
		return
	case old:
		v = append(v[:2:2], append([]uint32{0}, v[2:]...)...)
	}
	p := Parameters{At: at, WALLevel: WALLevel(v[5]), MaxConnections: int32(v[0]), MaxWorkerProcesses: int32(v[1]), MaxWALSenders: int32(v[2]),
		MaxPreparedTransactions: int32(v[3]), MaxLocksPerTransaction: int32(v[4])}
	if p.WALLevel != "" {
		n.Parameters = append(n.Parameters, p)
	}
}

// SortParameters brings them into their order in the WAL, each once: a timeline's first segment is a copy of another's.
func SortParameters(all []Parameters) []Parameters {
	slices.SortFunc(all, func(a, b Parameters) int { return cmp.Compare(a.At, b.At) })
	return slices.Compact(all)
}

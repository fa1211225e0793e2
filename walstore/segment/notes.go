package segment

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
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
	rmXLOG, rmDatabase = 0, 4
	parameterChange    = 0x60
	opMask             = 0xF0

	// maxNoted is more than any record that is noted has: the drop of a database that lies in 1000 tablespaces.
	maxNoted = 4096
)

// Noter finds the notes of a segment that is written to it, in one pass over the headers of its records.
type Noter struct {
	head   Header
	begun  bool
	ended  bool // what follows is no WAL
	at     LSN  // of the next page
	record []byte
	want   int // bytes of record
	begin  LSN // of record
	found  Notes
}

// Write takes the next whole pages of a segment, from its first one on. It never fails; what is no WAL has no notes.
func (n *Noter) Write(p []byte) (int, error) {
	if !n.begun {
		h, err := ParseHeader(p)
		n.head, n.begun, n.ended, n.at = h, true, err != nil, h.Address
	}
	for rest := p; !n.ended && len(rest) > 0; {
		size := int(n.head.PageSize)
		if len(rest) < size || !isPage(rest, n.head.Magic, n.at) {
			n.ended = true
			break
		}
		n.page(rest[:size])
		rest, n.at = rest[size:], n.at+LSN(size)
	}
	return len(p), nil
}

func isPage(head []byte, magic uint16, at LSN) bool {
	return binary.LittleEndian.Uint16(head) == magic && LSN(binary.LittleEndian.Uint64(head[8:])) == at
}

// page looks at one page. Where its first record begins it says itself, so that one that was given up (XLOG_OVERWRITE_CONTRECORD)
// does not matter.
func (n *Noter) page(p []byte) {
	size := shortHeader
	if n.at == n.head.Address {
		size = HeaderSize
	}
	data, rest := p[size:], int(binary.LittleEndian.Uint32(p[16:]))
	if n.record != nil {
		n.goOn(data, rest)
	} else if size == HeaderSize && rest <= min(maxNoted, len(data)) {
		n.headless(data[:rest])
	}
	first := int(align8(int64(rest)))
	if first < len(data) {
		n.records(data[first:], n.at+LSN(size+first))
	}
}

// goOn completes a record that began in a page before.
func (n *Noter) goOn(data []byte, rest int) {
	missing := n.want - len(n.record)
	if align8(int64(rest)) != align8(int64(missing)) {
		n.record = nil
		return
	}
	n.record = append(n.record, data[:min(missing, len(data))]...)
	n.take()
}

// records looks at those that begin in what is left of a page.
func (n *Noter) records(data []byte, at LSN) {
	for i := 0; i < len(data); {
		d := data[i:]
		total := int(binary.LittleEndian.Uint32(d))
		if total < recordHeader { // nothing was written here
			return
		}
		if len(d) < recordHeader || isNoted(d[16], d[17]) {
			if total <= maxNoted {
				n.record, n.want, n.begin = append([]byte{}, d[:min(total, len(d))]...), total, at+LSN(i)
				n.take()
			}
		}
		i += (total + 7) &^ 7
	}
}

func isNoted(info, rm byte) bool {
	return rm == rmDatabase || rm == rmXLOG && info&opMask == parameterChange
}

// take notes the record when it is complete.
func (n *Noter) take() {
	if len(n.record) < n.want {
		return
	}
	if isNoted(n.record[16], n.record[17]) && soundRecord(n.record) {
		n.found.note(n.record, n.begin, n.head.Version())
	}
	n.record = nil
}

func soundRecord(r []byte) bool {
	crc := crc32.Update(crc32.Checksum(r[recordHeader:], castagnoli()), castagnoli(), r[:20])
	return crc == binary.LittleEndian.Uint32(r[20:])
}

// headless notes the record of which only 8 or 16 bytes are in the segment before: what tells its kind is in this one. Its CRC
// cannot be checked without those; but all of its lengths, and the place of the record before it, have to fit.
func (n *Noter) headless(tail []byte) {
	for before := 8; before <= 16; before += 8 {
		r := append(make([]byte, before), tail...)
		if len(r) < recordHeader+2 {
			continue
		}
		le := binary.LittleEndian
		le.PutUint32(r, uint32(len(r)))
		previous := LSN(le.Uint64(r[8:16]))
		known := before == 16 || previous < n.head.Address && previous+LSN(n.head.Size)*64 > n.head.Address
		if le.Uint16(r[18:]) == 0 && isNoted(r[16], r[17]) && known {
			n.found.note(r, n.head.Address-LSN(before), n.head.Version())
		}
	}
}

// Notes is what was found, when all of the segment was written.
func (n *Noter) Notes() Notes {
	if r := n.record; len(r) >= recordHeader && n.at == n.head.Address+LSN(n.head.Size) && isNoted(r[16], r[17]) {
		n.found.Cut = &Cut{n.begin, n.head.Magic, hex.EncodeToString(r)}
	}
	return n.found
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

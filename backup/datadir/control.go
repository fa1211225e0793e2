package datadir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrControl: the bytes are not a whole pg_control that PostgreSQL 10 or later wrote.
var ErrControl = errors.New("not a valid pg_control")

// controlMaxData is the size of the struct in it: one sector, so that it is written as one.
const controlMaxData = 512

// State is the cluster's state (DBState in PostgreSQL's pg_control.h).
type State uint32

const (
	StartingUp State = iota
	ShutDown
	ShutDownInRecovery
	ShuttingDown
	InCrashRecovery
	InArchiveRecovery
	InProduction
)

// String is the state in pg_controldata's words.
func (s State) String() string {
	names := [...]string{"starting up", "shut down", "shut down in recovery", "shutting down",
		"in crash recovery", "in archive recovery", "in production"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unrecognized status code"
}

// Control is the content of pg_control, as far as it is useful and stable over the versions.
type Control struct {
	SystemID       uint64
	Version        uint32 // of the format: 1002 (10) … 1800 (18)
	CatalogVersion uint32
	State          State
	Modified       time.Time

	Checkpoint     segment.LSN      // of the latest checkpoint record
	Redo           segment.LSN      // where recovery would begin
	Timeline       segment.Timeline // of the latest checkpoint
	PrevTimeline   segment.Timeline
	FullPageWrites bool // at the latest checkpoint
	CheckpointTime time.Time

	// Partial: the version is newer than 1800. The CRC holds, but nothing from here on is known.
	Partial bool

	Parameters segment.Parameters // of the server that wrote the WAL up to here; without a place

	MinRecoveryPoint    segment.LSN
	MinRecoveryTimeline segment.Timeline
	BackupStart         segment.LSN
	BackupEnd           segment.LSN
	BackupEndRequired   bool
	BlockSize           uint32
	SegmentBlocks       uint32 // blocks in one file of a relation
	SegmentSize         segment.Size
	ChecksumVersion     uint32 // 0: no page checksums

	crcOffset int
}

// Wrote is the timeline to which a server that does not run has written its own WAL last, and where the record of its clean
// shutdown begins; 0: it crashed. False of a standby, or a server in archive recovery: their WAL is another's.
func (c Control) Wrote() (tli segment.Timeline, shutdown segment.LSN, ok bool) {
	switch {
	case c.Partial:
		return 0, 0, false
	case c.State == ShutDown:
		return c.Timeline, c.Checkpoint, true
	case c.State == InProduction, c.State == ShuttingDown, c.State == InCrashRecovery:
		// Until the first checkpoint after a promotion only this tells of the new one (CreateEndOfRecoveryRecord in xlog.c).
		return max(c.Timeline, c.MinRecoveryTimeline), 0, true
	}
	return 0, 0, false
}

// ParseControl reads pg_control from its bytes (512 or more; the file has 8192) and checks its CRC-32C. Of
// a version that is not known yet it gives what all versions so far have in common, with Partial set.
func ParseControl(b []byte) (Control, error) {
	if len(b) < controlMaxData {
		return Control{}, fmt.Errorf("%w: it has only %d bytes", ErrControl, len(b))
	}
	b = b[:controlMaxData]
	version := binary.LittleEndian.Uint32(b[8:])
	switch {
	case version>>16 != 0 && version&0xffff == 0:
		return Control{}, fmt.Errorf("%w: it is in big-endian byte order, which is not supported", ErrControl)
	case version < 1002 || version > 99999:
		return Control{}, fmt.Errorf("%w: version %d; the oldest that is supported is 1002 (PostgreSQL 10)", ErrControl, version)
	}
	r := &structReader{b: b}
	c := r.control(version)
	off, err := r.crc(version)
	switch {
	case err != nil:
		return Control{}, err
	case version > 1800:
		c.Partial = true
	case !c.SegmentSize.Valid():
		return Control{}, fmt.Errorf("%w: WAL segment size %d", ErrControl, c.SegmentSize)
	}
	c.crcOffset = off
	return c, nil
}

// crc finds the CRC, which is always the last field, when r has read the others.
func (r *structReader) crc(version uint32) (off int, err error) {
	if version <= 1800 {
		r.skip(32, 1) // mock_authentication_nonce
		r.align(4)
		if !crcAt(r.b, r.off) {
			return 0, fmt.Errorf("%w: its CRC does not match", ErrControl)
		}
		return r.off, nil
	}
	// It is somewhere after what is known of the struct. That a wrong place looks right by chance is one in
	// 2^32 for each.
	r.align(4)
	for off := r.off; off <= controlMaxData-4; off += 4 {
		if crcAt(r.b, off) {
			return off, nil
		}
	}
	return 0, fmt.Errorf("%w: its CRC does not match (version %d is unknown)", ErrControl, version)
}

const (
	checkpointOffset = 32 // of the latest checkpoint's location in pg_control, in all versions so far
	// noCheckpoint is a location in the WAL where none can be, as the first segment is never written; but
	// PostgreSQL does not see that at a glance, and refuse the file even with a backup_label.
	noCheckpoint = 0xDEAD
)

// WithoutCheckpoint returns a pg_control that is good for recovery from a backup_label only: that gives the
// checkpoint to begin with. Without the label, which people remove to get a server to start, it would begin with
// the checkpoint in pg_control, and open a database that is silently corrupt; like this it does not start.
func WithoutCheckpoint(b []byte) ([]byte, error) {
	c, err := ParseControl(b)
	if err != nil {
		return nil, err
	}
	b = bytes.Clone(b)
	binary.LittleEndian.PutUint64(b[checkpointOffset:], noCheckpoint)
	binary.LittleEndian.PutUint32(b[c.crcOffset:], crc32.Checksum(b[:c.crcOffset], crc32.MakeTable(crc32.Castagnoli)))
	return b, nil
}

func crcAt(b []byte, off int) bool {
	return crc32.Checksum(b[:off], crc32.MakeTable(crc32.Castagnoli)) == binary.LittleEndian.Uint32(b[off:])
}

// control reads struct ControlFileData field by field, as pg_control.h of each version declares it; of
// an unknown version only up to the checkpoint.
func (r *structReader) control(version uint32) (c Control) {
	c.SystemID, c.Version, c.CatalogVersion = r.u64(), r.u32(), r.u32()
	c.State, c.Modified = State(r.u32()), r.time()
	c.Checkpoint = r.lsn()
	if version < 1100 {
		r.skip(1, 8) // prevCheckPoint
	}
	r.checkpoint(&c, version)
	if version > 1800 {
		return c
	}
	r.skip(1, 8) // unloggedLSN
	c.MinRecoveryPoint, c.MinRecoveryTimeline = r.lsn(), segment.Timeline(r.u32())
	c.BackupStart, c.BackupEnd, c.BackupEndRequired = r.lsn(), r.lsn(), r.bool()
	c.Parameters = r.parameters(version)
	r.skip(1, 4) // maxAlign
	r.skip(1, 8) // floatFormat
	c.BlockSize, c.SegmentBlocks = r.u32(), r.u32()
	r.skip(1, 4) // xlog_blcksz
	c.SegmentSize = segment.Size(r.u32())
	r.skip(4, 4) // nameDataLen, indexMaxKeys, toast_max_chunk_size, loblksize
	if version < 1300 {
		r.skip(1, 1) // float4ByVal
	}
	r.skip(1, 1) // float8ByVal
	c.ChecksumVersion = r.u32()
	if version >= 1800 {
		r.skip(1, 1) // default_char_signedness
	}
	return c
}

// parameters reads what CheckRequiredParameterValues compares, and the two settings beside it.
func (r *structReader) parameters(version uint32) (p segment.Parameters) {
	p.WALLevel = segment.WALLevel(r.u32())
	r.skip(1, 1) // wal_log_hints
	p.MaxConnections, p.MaxWorkerProcesses = int32(r.u32()), int32(r.u32())
	if version >= 1201 {
		p.MaxWALSenders = int32(r.u32())
	}
	p.MaxPreparedTransactions, p.MaxLocksPerTransaction = int32(r.u32()), int32(r.u32())
	r.skip(1, 1) // track_commit_timestamp
	return p
}

// checkpoint reads struct CheckPoint.
func (r *structReader) checkpoint(c *Control, version uint32) {
	c.Redo = r.lsn()
	c.Timeline, c.PrevTimeline = segment.Timeline(r.u32()), segment.Timeline(r.u32())
	c.FullPageWrites = r.bool()
	if version > 1800 {
		return
	}
	if version >= 1700 {
		r.skip(1, 4) // wal_level
	}
	if version >= 1201 {
		r.skip(1, 8) // nextXid with its epoch
	} else {
		r.skip(2, 4)
	}
	r.skip(7, 4) // nextOid, nextMulti, nextMultiOffset, oldestXid and its database, oldestMulti and its
	c.CheckpointTime = r.time()
	r.skip(3, 4) // oldestCommitTsXid, newestCommitTsXid, oldestActiveXid
	r.align(8)
}

// structReader reads a C struct as x86-64 and arm64 lay it out: every field at a multiple of its size.
type structReader struct {
	b   []byte
	off int
}

func (r *structReader) align(n int) { r.off = (r.off + n - 1) / n * n }

// skip passes over n fields of the given size.
func (r *structReader) skip(n, size int) { r.align(size); r.off += n * size }

func (r *structReader) u32() uint32 {
	r.skip(1, 4)
	return binary.LittleEndian.Uint32(r.b[r.off-4:])
}

func (r *structReader) u64() uint64 {
	r.skip(1, 8)
	return binary.LittleEndian.Uint64(r.b[r.off-8:])
}

func (r *structReader) bool() bool { r.skip(1, 1); return r.b[r.off-1] != 0 }

func (r *structReader) lsn() segment.LSN { return segment.LSN(r.u64()) }

func (r *structReader) time() time.Time { return time.Unix(int64(r.u64()), 0).UTC() }

// ReadControl reads global/pg_control of a data directory, whether its server runs or not: the parsed form
// and the file's bytes. The server overwrites the file in place, so on some file systems a reader can
// see half of the old and half of the new; it is read again, for up to a second, until its CRC holds.
func ReadControl(dataDir string) (Control, []byte, error) {
	var lastErr error
	for range 100 {
		b, err := os.ReadFile(filepath.Join(dataDir, ControlPath))
		if err != nil {
			return Control{}, nil, fmt.Errorf("read pg_control: %w", err)
		}
		c, err := ParseControl(b)
		if err == nil {
			return c, b, nil
		}
		lastErr = err
		time.Sleep(10 * time.Millisecond)
	}
	return Control{}, nil, fmt.Errorf("read %s: %w", filepath.Join(dataDir, ControlPath), lastErr)
}

const ControlPath = "global/pg_control"

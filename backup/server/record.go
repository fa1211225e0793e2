package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/walstore/segment"
)

// walReader reads records from the segments in a pg_wal.
type walReader struct {
	dir     string
	control datadir.Control
	page    segment.LSN // size of a WAL page, from the header of the first segment that was opened
}

const (
	recordHeader    = 24      // sizeof(XLogRecord)
	shortPageHeader = 24      // SizeOfXLogShortPHD
	maxCheckpoint   = 8 << 10 // the record has some 120 bytes
)

// shutdownRecord checks that there is the record of a shutdown checkpoint at an LSN, and returns where it ends
// (xlogrecord.h; XLOG_CHECKPOINT_SHUTDOWN in pg_control.h, the same from 10 to 18).
func (w *walReader) shutdownRecord(at segment.LSN) (end segment.LSN, err error) {
	head, _, err := w.read(at, recordHeader)
	if err != nil {
		return 0, err
	}
	total := binary.LittleEndian.Uint32(head)
	const rmXLOG, opMask, checkpointShutdown = 0, 0xF0, 0x00
	if total < recordHeader || total > maxCheckpoint || head[17] != rmXLOG || head[16]&opMask != checkpointShutdown {
		return 0, errors.New("there is no record of a shutdown")
	}
	record, end, err := w.read(at, int(total))
	if err != nil {
		return 0, err
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	if crc32.Update(crc32.Checksum(record[recordHeader:], table), table, record[:20]) != binary.LittleEndian.Uint32(head[20:]) {
		return 0, errors.New("the record's CRC does not match")
	}
	return (end + 7) &^ 7, nil
}

// read returns n bytes of WAL from an LSN on, without the headers of pages, and where they end.
func (w *walReader) read(at segment.LSN, n int) (data []byte, end segment.LSN, err error) {
	for n > 0 {
		chunk, err := w.within(at, n)
		if err != nil {
			return nil, 0, err
		}
		data = append(data, chunk...)
		n -= len(chunk)
		if at += segment.LSN(len(chunk)); n > 0 { // it goes on after the next page's header
			if at += shortPageHeader; at%segment.LSN(w.control.SegmentSize) == shortPageHeader {
				at += segment.HeaderSize - shortPageHeader
			}
		}
	}
	return data, at, nil
}

// within reads up to n bytes from an LSN on, to the end of the page at most.
func (w *walReader) within(at segment.LSN, n int) ([]byte, error) {
	c := w.control
	seg := segment.At(c.Timeline, at, c.SegmentSize)
	name := seg.Name(c.SegmentSize)
	f, err := os.Open(filepath.Join(w.dir, name))
	if err != nil {
		return nil, datadir.Explain("open", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	first := make([]byte, segment.HeaderSize)
	if _, err := f.ReadAt(first, 0); err != nil {
		return nil, datadir.Explain("read", name, err)
	}
	h, err := segment.ParseHeader(first)
	if err == nil {
		err = h.Verify(name, st.Size())
	}
	if err == nil && h.SystemID != c.SystemID {
		err = fmt.Errorf("it belongs to the cluster with system identifier %d", h.SystemID)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	w.page = segment.LSN(h.PageSize)
	data := make([]byte, min(segment.LSN(n), w.page-at%w.page))
	if _, err := f.ReadAt(data, int64(at-seg.Start(c.SegmentSize))); err != nil {
		return nil, datadir.Explain("read", name, err)
	}
	return data, nil
}

package segment

import (
	"cmp"
	"errors"
	"io"
	"time"
)

// Facts is what a segment tells in one pass, up to the place where its WAL stops being valid. What is no WAL tells nothing.
type Facts struct {
	LastRecord LSN          // where the last record begins that is whole in it: recovery_target_lsn needs one at the target or after it. 0: there is none
	LastChange LSN          // the same without the record that ends a segment early (XLOG_SWITCH), which says nothing else
	Parameters []Parameters // the changes of settings in it
	commits    []commit
}

type commit struct {
	at   LSN
	time int64 // microseconds since 1970
}

// ReadFacts reads a segment, or what was received of one. The error is r's own.
func ReadFacts(r io.Reader) (f Facts, err error) {
	s, err := NewScan(r, nil, nil)
	if errors.Is(err, ErrHeader) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	var notes Notes
	for r := range s.Sound() {
		f.LastRecord = r.At
		if !r.isSwitch() {
			f.LastChange = r.At
		}
		if m, ok := mark(r, s.head.Version()); ok && !m.Point {
			f.commits = append(f.commits, commit{r.At, m.Time.UnixMicro()})
		}
		if isNoted(r.data[16], r.data[17]) {
			notes.note(r.data, r.At, s.head.Version())
		}
	}
	notes.headless(s.head, s.tail)
	f.Parameters = SortParameters(notes.Parameters)
	return f, s.err
}

// LastCommit is the time of the last transaction that ended in the segment, before a place in it if that is not 0.
func (f Facts) LastCommit(until LSN) (last time.Time, found bool) {
	for _, c := range f.commits {
		if until == 0 || c.at < until {
			last, found = time.UnixMicro(c.time).UTC(), true
		}
	}
	return last, found
}

// End reads a segment of a server that does not run, and returns where its WAL ends as far as recovery would read it: the byte
// behind the last record that is whole, has its CRC, and follows the one before (ValidXLogRecord and ReadRecord in xlogreader.c).
// complete says that the segment goes on in the next one, or was ended early (XLOG_SWITCH): end is then the end of the segment. after is the beginning of
// the next segment, in which the last record may end; nil: there is none. 0: no whole record begins in it. The error is r's own, or ErrHeader.
func End(r, after io.Reader) (end LSN, complete bool, err error) {
	s, err := NewScan(r, nil, after)
	if err != nil {
		return 0, false, err
	}
	before := LSN(0)
	for r := range s.Sound() {
		if before > 0 && r.previous() != before {
			break
		}
		if r.isSwitch() {
			return s.border(), true, nil
		}
		before, end = r.At, min(r.End, s.border())
	}
	return end, end >= s.border(), s.err
}

// Shutdown finds the record of a shutdown checkpoint at a place in a segment (XLOG_CHECKPOINT_SHUTDOWN in pg_control.h, the same
// from 10 to 18), and returns where it ends. after is as in End. The error is also r's own, or ErrHeader.
func Shutdown(r, after io.Reader, at LSN) (end LSN, err error) {
	const checkpointShutdown = 0x00
	s, err := NewScan(r, nil, after)
	if err != nil {
		return 0, err
	}
	for r := range s.Records() {
		switch {
		case r.At < at:
			continue
		case r.At > at || r.End == 0 || !r.is(rmXLOG, checkpointShutdown):
			return 0, errors.New("there is no record of a shutdown")
		case !r.sound():
			return 0, errors.New("the record's CRC does not match")
		}
		return r.End, nil
	}
	return 0, cmp.Or(s.err, errors.New("there is no record of a shutdown"))
}

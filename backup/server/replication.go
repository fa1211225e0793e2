package server

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgobj/pgobj/backup/conninfo"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/walstore/segment"
)

var (
	// ErrReplication: the server refuses to stream, and will go on refusing until somebody changes something.
	ErrReplication = errors.New("the server does not stream WAL to pgobj")
	// ErrWALRemoved: the server has removed the WAL that was asked for.
	ErrWALRemoved = errors.New("the server has already removed this WAL")
)

// Replication is a connection that speaks the physical replication protocol ("Streaming Replication Protocol" in
// PostgreSQL's manual). It needs a role with REPLICATION, and a line for the database "replication" in pg_hba.conf.
//
// Receive is for one goroutine; Status may be called from others meanwhile.
type Replication struct {
	conn    *pgconn.PgConn
	writing sync.Mutex
}

// Identity is what a server says of itself.
type Identity struct {
	SystemID uint64
	Timeline segment.Timeline
	Position segment.LSN // up to where its WAL is flushed
}

// ConnectReplication connects with settings as Connect takes them. application is the name for pg_stat_replication
// and synchronous_standby_names; when it is empty, the one in dsn counts.
func ConnectReplication(ctx context.Context, dsn, application string) (*Replication, error) {
	// Such connections have no database; lines of ~/.pgpass and pg_hba.conf call it replication.
	cfg, err := conninfo.Parse(conninfo.With(dsn, "dbname", "replication"))
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["replication"] = "true"
	cfg.RuntimeParams["application_name"] = cmp.Or(application, cfg.RuntimeParams["application_name"], "pgobj")
	conn, err := open(ctx, cfg)
	if err != nil {
		return nil, connectError(err)
	}
	r := &Replication{conn: conn}
	if major := r.Major(); major < minVersion/10000 {
		r.Close()
		return nil, fmt.Errorf("%w: the server is %s, the oldest supported version is 10", ErrVersion, conn.ParameterStatus("server_version"))
	}
	return r, nil
}

// Close ends the connection at once.
func (r *Replication) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // do not wait for the server to take its leave
	_ = r.conn.Close(ctx)
}

// Major is the server's major version.
func (r *Replication) Major() int {
	digits := regexp.MustCompile(`^\d+`).FindString(r.conn.ParameterStatus("server_version"))
	major, _ := strconv.Atoi(digits) // no digits: 0, which is too old
	return major
}

// row runs a command that answers with one row.
func (r *Replication) row(ctx context.Context, command string, columns int) ([][]byte, error) {
	results, err := r.conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, refusal(err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, fmt.Errorf("the server's answer to %s is not one row", command)
	}
	row := results[0].Rows[0]
	if len(row) < columns {
		return nil, fmt.Errorf("the server's answer to %s has %d columns instead of %d", command, len(row), columns)
	}
	return row, nil
}

// refusal sorts the server's errors (walsender.c, slot.c): those that another try does not mend are ErrReplication.
func refusal(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch e.Code {
	case "58P01": // undefined_file
		return fmt.Errorf("%w: %w", ErrWALRemoved, err)
	case "42704", "42501", "42809", "42602", "53400", "55000", "42601":
		// no such slot, no right to replicate, a logical slot, a bad name, no slot free, slot invalidated or wal_level too
		// low, a command that this server does not know
		return fmt.Errorf("%w: %w", ErrReplication, err)
	}
	return err
}

// Identify asks who the server is.
func (r *Replication) Identify(ctx context.Context) (Identity, error) {
	row, err := r.row(ctx, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return Identity{}, fmt.Errorf("identify the server: %w", err)
	}
	var id Identity
	var err1, err2, err3 error
	id.SystemID, err1 = strconv.ParseUint(string(row[0]), 10, 64)
	id.Timeline, err2 = datadir.ParseTimeline(string(row[1]))
	id.Position, err3 = segment.ParseLSN(string(row[2]))
	if err := errors.Join(err1, err2, err3); err != nil {
		return Identity{}, fmt.Errorf("identify the server: %w", err)
	}
	return id, nil
}

// setting reads a setting with one of these units.
func (r *Replication) setting(ctx context.Context, name string, units map[string]uint64) (uint64, error) {
	row, err := r.row(ctx, "SHOW "+name, 1)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	digits := strings.TrimRight(string(row[0]), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	n, err := strconv.ParseUint(digits, 10, 64)
	unit, known := units[strings.TrimSpace(string(row[0][len(digits):]))]
	if err != nil || !known {
		return 0, fmt.Errorf("read %s: unexpected value %q", name, row[0])
	}
	return n * unit, nil
}

// SegmentSize is the server's WAL segment size.
func (r *Replication) SegmentSize(ctx context.Context) (segment.Size, error) {
	n, err := r.setting(ctx, "wal_segment_size", map[string]uint64{"": 1, "B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30})
	if err == nil && !segment.Size(n).Valid() {
		err = fmt.Errorf("a WAL segment size of %d bytes is impossible", n)
	}
	return segment.Size(n), err
}

// Timeout is how long the server waits for a sign of life (wal_sender_timeout); 0: for ever.
func (r *Replication) Timeout(ctx context.Context) (time.Duration, error) {
	ms := uint64(time.Millisecond)
	n, err := r.setting(ctx, "wal_sender_timeout", map[string]uint64{"": ms, "ms": ms, "s": 1000 * ms, "min": 60_000 * ms, "h": 3_600_000 * ms, "d": 86_400_000 * ms})
	return time.Duration(n), err
}

// History is the content of a timeline's history file.
func (r *Replication) History(ctx context.Context, tli segment.Timeline) ([]byte, error) {
	row, err := r.row(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", tli), 2)
	if err != nil {
		return nil, fmt.Errorf("ask for the history of timeline %d: %w", tli, err)
	}
	if name := string(row[0]); name != segment.HistoryName(tli) {
		return nil, fmt.Errorf("ask for the history of timeline %d: the server sent %q", tli, name)
	}
	return append([]byte(nil), row[1]...), nil
}

// CreateSlot makes a physical slot that keeps WAL from now on. One that is there already is as good, unless it keeps nothing:
// such a slot has lost its WAL (max_slot_wal_keep_size; PostgreSQL 18 refuses to use it), or was never used. It is created again.
func (r *Replication) CreateSlot(ctx context.Context, name string) (made bool, err error) {
	if r.Major() >= 15 { // spares the server's log an error each time
		row, err := r.row(ctx, "READ_REPLICATION_SLOT "+quoteName(name), 3)
		if err != nil || len(row[1]) > 0 {
			return false, err
		}
		if string(row[0]) == "physical" {
			if _, err := r.conn.Exec(ctx, "DROP_REPLICATION_SLOT "+quoteName(name)).ReadAll(); err != nil {
				return false, fmt.Errorf("drop slot %s, which keeps no WAL: %w", name, refusal(err))
			}
		}
	}
	_, err = r.row(ctx, "CREATE_REPLICATION_SLOT "+quoteName(name)+" PHYSICAL RESERVE_WAL", 1)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42710" { // duplicate_object
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create slot %s: %w", name, err)
	}
	return true, nil
}

// SlotStart is from where on a slot keeps WAL; 0 where the server (before 15) or the slot does not tell.
func (r *Replication) SlotStart(ctx context.Context, name string) (segment.LSN, error) {
	if r.Major() < 15 {
		return 0, nil
	}
	row, err := r.row(ctx, "READ_REPLICATION_SLOT "+quoteName(name), 3)
	if err != nil {
		return 0, fmt.Errorf("read slot %s: %w", name, err)
	}
	if len(row[1]) == 0 {
		return 0, nil
	}
	return segment.ParseLSN(string(row[1]))
}

func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Start begins to stream a timeline from a position on; without a slot when its name is empty.
func (r *Replication) Start(ctx context.Context, slot string, tli segment.Timeline, at segment.LSN) error {
	if slot != "" {
		slot = "SLOT " + quoteName(slot) + " "
	}
	f := r.conn.Frontend()
	f.SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION %sPHYSICAL %s TIMELINE %d", slot, at, tli)})
	if err := f.Flush(); err != nil {
		return fmt.Errorf("start streaming: %w", err)
	}
	for {
		msg, err := r.conn.ReceiveMessage(ctx)
		if err != nil {
			return fmt.Errorf("start streaming: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("start streaming timeline %d at %s: %w", tli, at, refusal(pgconn.ErrorResponseToPgError(m)))
		case *pgproto3.ReadyForQuery:
			return fmt.Errorf("start streaming timeline %d at %s: the timeline ends there", tli, at)
		}
	}
}

// Received is a message of the stream: WAL, a keepalive (no Data), or the end of the timeline.
type Received struct {
	At    segment.LSN // of the first byte of Data
	Data  []byte      // valid until the next Receive
	Reply bool        // the server wants a Status, or gives us up soon

	End bool // the timeline has ended, or (when Next is 0) the server has sent all that it had and is stopping
	// Next is the timeline that follows, and At where it begins.
	Next segment.Timeline
}

// Receive waits for the next message. ctx ends the connection with it.
func (r *Replication) Receive(ctx context.Context) (Received, error) {
	msg, err := r.conn.ReceiveMessage(ctx)
	if err != nil {
		return Received{}, fmt.Errorf("receive WAL: %w", err)
	}
	switch m := msg.(type) {
	case *pgproto3.CopyData:
		return parseStream(m.Data)
	case *pgproto3.ErrorResponse:
		return Received{}, fmt.Errorf("receive WAL: %w", refusal(pgconn.ErrorResponseToPgError(m)))
	case *pgproto3.CopyDone:
		return r.endOfTimeline(ctx)
	case *pgproto3.CommandComplete: // "COPY 0", from a server that is stopping (WalSndDone)
		return Received{End: true}, nil
	case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		return Received{}, nil
	}
	return Received{}, fmt.Errorf("receive WAL: the server sent a %T", msg)
}

func parseStream(b []byte) (Received, error) {
	switch {
	case len(b) >= 25 && b[0] == 'w': // XLogData: start, end of WAL, time, WAL
		return Received{At: segment.LSN(binary.BigEndian.Uint64(b[1:])), Data: b[25:]}, nil
	case len(b) >= 18 && b[0] == 'k': // keepalive: end of WAL, time, reply wanted
		return Received{Reply: b[17] == 1}, nil
	}
	return Received{}, fmt.Errorf("receive WAL: unknown message of %d bytes", len(b))
}

// endOfTimeline answers the server's CopyDone and reads where the stream goes on.
func (r *Replication) endOfTimeline(ctx context.Context) (Received, error) {
	done, err := (&pgproto3.CopyDone{}).Encode(nil)
	if err == nil {
		err = r.write(done)
	}
	end := Received{End: true}
	for err == nil {
		var msg pgproto3.BackendMessage
		if msg, err = r.conn.ReceiveMessage(ctx); err != nil {
			break
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			if len(m.Values) < 2 {
				return end, errors.New("receive WAL: the server does not say where the next timeline begins")
			}
			if end.Next, err = datadir.ParseTimeline(string(m.Values[0])); err == nil {
				end.At, err = segment.ParseLSN(string(m.Values[1]))
			}
		case *pgproto3.ErrorResponse:
			err = refusal(pgconn.ErrorResponseToPgError(m))
		case *pgproto3.ReadyForQuery:
			return end, nil
		}
	}
	return end, fmt.Errorf("read where the next timeline begins: %w", err)
}

// Status reports up to where WAL is safe. It is called "written" as well as "flushed", so that no level of
// synchronous_commit acknowledges less; nothing is applied here, so remote_apply waits for ever.
// With ask the server answers at once.
func (r *Replication) Status(safe segment.LSN, now time.Time, ask bool) error {
	b := make([]byte, 34)
	b[0] = 'r'
	binary.BigEndian.PutUint64(b[1:], uint64(safe))
	binary.BigEndian.PutUint64(b[9:], uint64(safe))
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	binary.BigEndian.PutUint64(b[25:], uint64(now.Sub(epoch).Microseconds()))
	if ask {
		b[33] = 1
	}
	msg, err := (&pgproto3.CopyData{Data: b}).Encode(nil)
	if err == nil {
		err = r.write(msg)
	}
	if err != nil {
		return fmt.Errorf("report to the server: %w", err)
	}
	return nil
}

// write sends a message beside pgconn, which cannot send while it receives. While the stream runs nothing else is sent.
func (r *Replication) write(msg []byte) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	_, err := r.conn.Conn().Write(msg)
	return err
}

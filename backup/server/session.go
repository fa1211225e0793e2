package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/pgobj/pgobj/backup/conninfo"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

var (
	// ErrConnect: no server answers there, or the one that does lets nobody in.
	ErrConnect = errors.New("cannot connect to PostgreSQL")
	// ErrRefused: the server refused to begin or to end a backup. Its own words follow.
	ErrRefused = errors.New("PostgreSQL refused")
	// ErrSessionLost: the connection is gone. When a backup was in progress PostgreSQL has aborted it:
	// what was copied so far cannot be made consistent any more.
	ErrSessionLost = errors.New("the session with PostgreSQL is lost")
	// ErrPooler: something between here and the server shares server sessions among clients.
	ErrPooler = errors.New("the connection goes through a connection pooler")
	// ErrPromoted: the standby became a primary while the backup ran, so its end cannot be determined.
	ErrPromoted = errors.New("the standby was promoted during the backup")
	// ErrVersion: the server is older than PostgreSQL 10.
	ErrVersion = errors.New("the PostgreSQL version is not supported")
)

// minVersion is the oldest server_version_num that is spoken to.
const minVersion = 100000

// pingTimeout is how long a ping may stay unanswered before the session counts as lost. It is generous:
// a server that is busy with the very backup must not be taken for a dead one.
const pingTimeout = time.Minute

// lockTimeout is how long the server may keep a query waiting for a lock.
const lockTimeout = "5min"

// Session is one connection for the whole backup, because PostgreSQL ties a backup to the session that
// started it. Its methods may be called from several goroutines; they take turns.
type Session struct {
	// PingEvery is how often Watch asks whether the session is alive: every 10 seconds unless changed
	// before Watch is called.
	PingEvery time.Duration

	Role, Database string // of the session

	mu      sync.Mutex // pgconn allows one query at a time
	conn    *pgconn.PgConn
	version int

	// Set by Start, under mu.
	started    bool
	inRecovery bool
}

// declined says of an error that it is the server's answer to one query, and the session goes on.
func declined(err error) bool {
	_, answer := errors.AsType[*pgconn.PgError](err)
	return answer && !errors.Is(err, ErrSessionLost)
}

// Quote writes a value as libpq's keyword/value strings take it.
func Quote(value string) string {
	return conninfo.Quote(value)
}

// Connect opens the session. dsn is a URL or a keyword/value string as libpq takes it; what it leaves out
// (or all of it, when empty) comes from libpq's environment variables, service file and ~/.pgpass: see conninfo.Parse.
//
// No timeout that is configured in the server applies to the session, as a statement_timeout would end a backup
// in the middle. The client encoding is SQL_ASCII, which makes the server hand out paths and labels as
// the bytes that they are instead of converting them from the database's encoding.
func Connect(ctx context.Context, dsn string) (*Session, error) {
	cfg, err := conninfo.Parse(dsn)
	if err != nil {
		return nil, err
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "pgobj"
	}
	// A cancelled context must also end the query on the server: a start that waits for a spread
	// checkpoint would otherwise go on, and hold the backup open, for minutes.
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 5 * time.Second}
	}
	conn, err := open(ctx, cfg)
	if err != nil {
		return nil, connectError(err)
	}
	s := &Session{PingEvery: 10 * time.Second, Role: cfg.User, Database: cfg.Database, conn: conn}
	if err := s.prepare(ctx); err != nil {
		s.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return s, nil
}

func (s *Session) prepare(ctx context.Context) error {
	// First of all, so that no function of somebody else's can stand in for one of pg_catalog's.
	_, err := s.query(ctx, `
		SELECT pg_catalog.set_config('search_path', 'pg_catalog', false), pg_catalog.set_config('statement_timeout', '0', false)`)
	if err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	var pid uint32
	err = s.row(ctx, `
		SELECT current_setting('server_version_num'), pg_backend_pid(), set_config('client_encoding', 'SQL_ASCII', false)`, &s.version, &pid)
	if err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	if s.version < minVersion {
		return fmt.Errorf("%w: the server is %d.%d, the oldest supported version is 10", ErrVersion, s.version/10000, s.version/100%100)
	}
	// A server tells its process ID in the connection's first exchange. PgBouncer and its like send a
	// number of their own there. (A pooler in session mode would do no harm, but cannot be told apart.)
	if said := s.conn.PID(); said != pid {
		return fmt.Errorf("%w (it says that the server process is %d, but it is %d): connect to the server itself", ErrPooler, said, pid)
	}
	// From pg_settings, because later versions have more of them: idle_session_timeout is in 14,
	// transaction_timeout (it ends single statements, too) in 17. Nothing here waits for locks but those on the system's
	// catalogs, which somebody may hold for ever.
	_, err = s.query(ctx, `
		SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN $1 ELSE '0' END, false) FROM pg_settings WHERE name IN ('lock_timeout',
		  'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')`, lockTimeout)
	if err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	return nil
}

// Close ends the session. A backup that was started and not stopped is aborted by the server.
func (s *Session) Close(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.Close(ctx) // nothing can be done about it, and the server cleans up either way
}

// query runs one statement and returns its rows as text; NULL is the empty string.
func (s *Session) query(ctx context.Context, sql string, args ...string) ([][]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locked(ctx, sql, args...)
}

// locked is query for a caller that holds s.mu.
func (s *Session) locked(ctx context.Context, sql string, args ...string) ([][]string, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	res := s.conn.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	if res.Err != nil {
		if s.conn.IsClosed() {
			return nil, fmt.Errorf("%w: %w", ErrSessionLost, res.Err)
		}
		return nil, inFull(res.Err)
	}
	rows := make([][]string, len(res.Rows))
	for i, r := range res.Rows {
		for _, v := range r {
			rows[i] = append(rows[i], string(v))
		}
	}
	return rows, nil
}

// row runs a statement that has one row, and reads its columns: see scan.
func (s *Session) row(ctx context.Context, sql string, into ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lockedRow(ctx, sql, into...)
}

// lockedRow is row for a caller that holds s.mu.
func (s *Session) lockedRow(ctx context.Context, sql string, into ...any) error {
	rows, err := s.locked(ctx, sql)
	if err != nil {
		return err
	}
	return scan(rows[0], into...)
}

// scan reads the first columns of a row, each into what it points to; times are in microseconds since 1970. NULL leaves that as it is.
func scan(row []string, into ...any) (err error) {
	for i, to := range into {
		text, n := row[i], int64(0)
		if text == "" {
			continue
		}
		switch to := to.(type) {
		case *string:
			*to = text
		case *bool:
			*to = text == "t"
		case *time.Time:
			n, err = strconv.ParseInt(text, 10, 64)
			*to = time.UnixMicro(n).UTC()
		case *uint64: // SQL has no unsigned numbers
			n, err = strconv.ParseInt(text, 10, 64)
			*to = uint64(n)
		case *segment.LSN:
			*to, err = segment.ParseLSN(text)
		case *segment.Timeline:
			*to, err = datadir.ParseTimeline(text)
		default:
			_, err = fmt.Sscan(text, to)
		}
		if err != nil {
			return fmt.Errorf("column %d is %q: %w", i+1, text, err)
		}
	}
	return nil
}

// inFull adds the detail and the hint that came with a server's error; its text lacks them.
func inFull(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Detail+e.Hint != "" {
		return fmt.Errorf("%w\n%s", err, strings.TrimSpace(e.Detail+"\n"+e.Hint))
	}
	return err
}

// StartPoint is where a backup begins.
type StartPoint struct {
	LSN        segment.LSN      // WAL is needed from here on
	Timeline   segment.Timeline // the timeline that LSN is on
	Time       time.Time        // the server's clock when the start call had returned
	InRecovery bool             // the server is a standby, or pauses in a recovery
}

// Start begins a backup. It waits for a checkpoint (on a standby: a restartpoint): with fast the server
// hurries, else it spreads the work over up to checkpoint_timeout. The label must be a single line of
// less than 1024 bytes.
//
// Two backups of a standby may begin at the same LSN, as a restartpoint needs a new checkpoint to replay.
func (s *Session) Start(ctx context.Context, label string, fast bool) (StartPoint, error) {
	if len(label) >= 1024 || strings.ContainsAny(label, "\r\n\x00") {
		return StartPoint{}, fmt.Errorf("start backup: the label %.40q must be one line of less than 1024 bytes", label)
	}
	start := `SELECT pg_backup_start($1, $2::bool)`
	if s.version < 150000 {
		start = `SELECT pg_start_backup($1, $2::bool, false)`
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.locked(ctx, start, label, strconv.FormatBool(fast))
	if err != nil {
		return StartPoint{}, fmt.Errorf("start backup: %w", refused(err))
	}
	var p StartPoint
	err = scan(rows[0], &p.LSN)
	// The start call has just made the checkpoint that pg_control tells of, so its timeline is the one
	// that the start LSN is on. (Stop's label says it for certain.)
	if err == nil {
		err = s.lockedRow(ctx, `
		SELECT timeline_id, pg_is_in_recovery(), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
		FROM pg_control_checkpoint()`, &p.Timeline, &p.InRecovery, &p.Time)
	}
	if err != nil {
		return StartPoint{}, fmt.Errorf("start backup: %w", err)
	}
	s.started, s.inRecovery = true, p.InRecovery
	return p, nil
}

// refused marks what the server itself says no to, and keeps apart what happened to the session.
func refused(err error) error {
	if errors.Is(err, ErrSessionLost) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

// StopPoint is where a backup ends.
type StopPoint struct {
	// LSN is the byte after the last record that is needed: the last segment is segment.Before(LSN).
	LSN segment.LSN
	// Timeline is the one that the server is on now. It differs from the start's when a standby followed
	// its primary to a new timeline in between; WAL of both is needed then.
	Timeline segment.Timeline
	// Time is when the stop call had returned: no transaction up to LSN ended later. It is the server's clock;
	// on a standby whose primary's clock is ahead, the time of the last transaction that was replayed.
	Time time.Time
	// Replayed is how far a standby had replayed when it had stopped the backup: LSN, which is where its files are consistent, may be long
	// before that. 0 of a primary.
	Replayed segment.LSN
	// Label and TablespaceMap are the files backup_label and (when not empty) tablespace_map of the
	// backup, to be kept byte for byte. A restore without the label starts from the wrong checkpoint and
	// is silently corrupt. They must never be written into the live data directory.
	Label, TablespaceMap []byte
	// Tablespaces are those that there are when the backup has ended.
	Tablespaces []catalog.Tablespace
}

// Stop ends the backup and does not wait for WAL to be archived: the server would wait for ever when
// archiving fails, and not at all on most standbys, so that is for the caller to check in its own archive.
func (s *Session) Stop(ctx context.Context) (StopPoint, error) {
	p, err := s.stop(ctx)
	if err != nil {
		return StopPoint{}, err
	}
	if p.Tablespaces, err = s.tablespaces(ctx); err != nil {
		return StopPoint{}, fmt.Errorf("stop backup: list tablespaces: %w", err)
	}
	return p, nil
}

func (s *Session) stop(ctx context.Context) (StopPoint, error) {
	stop := `SELECT lsn, labelfile, spcmapfile FROM pg_backup_stop(false)`
	if s.version < 150000 {
		stop = `SELECT lsn, labelfile, spcmapfile FROM pg_stop_backup(false, false)`
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.locked(ctx, stop)
	if err != nil {
		return StopPoint{}, fmt.Errorf("stop backup: %w", s.promoted(ctx, err))
	}
	s.started = false
	p := StopPoint{Label: []byte(rows[0][1]), TablespaceMap: []byte(rows[0][2])}
	if err := scan(rows[0], &p.LSN); err != nil {
		return StopPoint{}, fmt.Errorf("stop backup: %w", err)
	}
	// A standby stops at its minimum recovery point, which has a timeline of its own.
	err = s.lockedRow(ctx, `
		SELECT CASE WHEN pg_is_in_recovery()
		         THEN greatest(c.timeline_id, r.min_recovery_end_timeline) ELSE c.timeline_id END,
		       (extract(epoch FROM greatest(clock_timestamp(), CASE WHEN pg_is_in_recovery()
		         THEN pg_last_xact_replay_timestamp() END)) * 1000000)::bigint,
		       coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END, '0/0')
		FROM pg_control_checkpoint() c, pg_control_recovery() r`, &p.Timeline, &p.Time, &p.Replayed)
	if err != nil {
		return StopPoint{}, fmt.Errorf("stop backup: read the timeline: %w", err)
	}
	return p, nil
}

// promoted tells whether the server refused to stop the backup because it is no standby any more. Its words
// would tell, too, but they may be in any language.
func (s *Session) promoted(ctx context.Context, err error) error {
	if s.inRecovery && !errors.Is(err, ErrSessionLost) {
		if rows, e := s.locked(ctx, `SELECT pg_is_in_recovery()`); e == nil && rows[0][0] != "t" {
			return fmt.Errorf("%w: %w", ErrPromoted, err)
		}
	}
	return refused(err)
}

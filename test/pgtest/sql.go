package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgobj/pgobj/test/testenv"
)

// DSN is the connection string for a database, for pgx and libpq alike.
func (c *Cluster) DSN(db string) string {
	return fmt.Sprintf("host='%s' port=%d user=postgres dbname='%s' sslmode=disable", c.SocketDir, c.Port, db)
}

// Query runs SQL in a connection of its own and returns the rows of its last statement as text: columns
// joined by '|', rows by newline, NULL as nothing, as `psql -At` prints them. Without args the text may
// hold several statements, which then are one transaction unless they say otherwise; with args ($1, …)
// it is one.
func (c *Cluster) Query(ctx context.Context, db, sql string, args ...any) (_ string, err error) {
	conn, err := pgconn.Connect(ctx, c.DSN(db))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()

	if len(args) > 0 {
		values := make([][]byte, len(args))
		for i, a := range args {
			if a != nil {
				values[i] = fmt.Append(nil, a)
			}
		}
		r := conn.ExecParams(ctx, sql, values, nil, nil, nil).Read()
		return text(r.Rows), r.Err
	}
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return "", err
	}
	last := results[len(results)-1]
	return text(last.Rows), last.Err
}

func text(rows [][][]byte) string {
	lines := make([]string, len(rows))
	for i, row := range rows {
		columns := make([]string, len(row))
		for j, value := range row {
			columns[j] = string(value)
		}
		lines[i] = strings.Join(columns, "|")
	}
	return strings.Join(lines, "\n")
}

// SQL is Query in the database postgres, for a test.
func (c *Cluster) SQL(t testing.TB, sql string, args ...any) string {
	t.Helper()
	return c.SQLIn(t, "postgres", sql, args...)
}

// SQLIn is Query for a test.
func (c *Cluster) SQLIn(t testing.TB, db, sql string, args ...any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result, err := c.Query(ctx, db, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return result
}

// Exec is SQL for statements without a result.
func (c *Cluster) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	c.SQL(t, sql, args...)
}

// SwitchWAL ends the WAL segment that is being written and returns the name of the newest that is complete.
func (c *Cluster) SwitchWAL(t testing.TB) string {
	t.Helper()
	end := `pg_switch_wal()` // the byte after the switch, or the beginning of the current segment when nothing is in it
	if c.Major >= 17 {
		end += ` - 1` // the older ones count a boundary to the segment that ends there, these to the one that begins
	}
	return c.SQL(t, `SELECT pg_walfile_name(`+end+`)`)
}

// Eventually polls a query until it returns want, and fails the test when that takes too long. An error
// of the query counts as "not yet": a server may be about to accept connections.
func (c *Cluster) Eventually(t testing.TB, sql, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got string
	var last error
	err := testenv.Until(ctx, sql+" gives "+want, func() bool {
		got, last = c.Query(ctx, "postgres", sql)
		return last == nil && got == want
	})
	if err != nil {
		t.Fatalf("%v (last answer: %q, %v)", err, got, last)
	}
}

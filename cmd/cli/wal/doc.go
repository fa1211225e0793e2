// Package wal has the commands that PostgreSQL calls, or that stand in for it: wal-push, wal-fetch, wal-receive, and
// their helpers.
package wal

// Package watch has the commands that look at the WAL archive: wal-list, wal-verify, pitr-windows.
package watch

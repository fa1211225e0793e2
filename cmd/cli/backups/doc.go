// Package backups has the commands that take a backup, restore it, or read it: backup-push, backup-fetch,
// backup-verify, backup-cat, restore-check, drill.
package backups

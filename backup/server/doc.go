// Package server speaks to PostgreSQL: sessions for a backup, replication, and what a stopped server's files tell
// instead.
package server

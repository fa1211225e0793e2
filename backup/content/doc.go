// Package content reads what a manifest lists: the manifest itself, frames of parts, single files. It refuses to write
// to a data directory and to know PostgreSQL.
package content

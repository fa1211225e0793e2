// Package datadir knows the files of a data directory: pg_control, backup_label, tablespace_map, backup_manifest, page
// checksums, and which files a backup takes. It refuses to speak to a server.
package datadir

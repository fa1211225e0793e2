package datadir

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// emptyDirs keep their directory but not their content: the server rebuilds it at start, WAL comes from the
// archive, and replication slots of the original must not hold back WAL in a copy.
var emptyDirs = map[string]bool{
	"pg_wal": true, "pg_wal/archive_status": true, "pg_wal/summaries": true, "pg_replslot": true,
	"pg_dynshmem": true, "pg_notify": true, "pg_serial": true, "pg_snapshots": true, "pg_stat_tmp": true,
	"pg_subtrans": true,
}

// topFiles are left out at the top of the data directory, and only there: a directory of an extension may
// use the same names. Most belong to the running server; backup_label and tablespace_map of a backup come
// from its stop call; signal files (recovery.conf up to 11) would start a restored server in a mode that
// nobody asked for.
var topFiles = map[string]bool{
	"postmaster.pid": true, "postmaster.opts": true, "backup_label": true, "tablespace_map": true,
	"backup_label.old": true, "tablespace_map.old": true, "backup_manifest": true, "backup_manifest.tmp": true,
	"postgresql.auto.conf.tmp": true, "current_logfiles.tmp": true,
	RecoverySignal: true, StandbySignal: true, RecoveryConf: true, "recovery.done": true,
}

type dirKind uint8

const (
	plainDir  dirKind = iota
	globalDir         // relations shared by all databases
	dbDir             // relations of one database
)

// kindOf tells whether a directory holds relations, by its path in the data directory.
func kindOf(dir string) dirKind {
	p := strings.Split(dir, "/")
	switch {
	case dir == "global":
		return globalDir
	case len(p) == 2 && p[0] == "base" && allDigits(p[1]),
		len(p) == 4 && isSpacePath(p[0]+"/"+p[1]) && isVersionDir(p[2]) && allDigits(p[3]):
		return dbDir
	}
	return plainDir
}

// DatabaseOf finds the database that a file belongs to, by its path in the data directory.
func DatabaseOf(p string) (oid uint32, ok bool) {
	dir := path.Dir(p)
	if kindOf(dir) != dbDir {
		return 0, false
	}
	n, err := strconv.ParseUint(path.Base(dir), 10, 32)
	return uint32(n), err == nil
}

// scope is what the exclusion of a name depends on: the directory that it is in.
type scope struct {
	path   string
	names  []string // all in the directory, sorted
	kind   dirKind
	spaces bool // the location of a tablespace that lies inside the data directory

	unlogged bool // unlogged relations are kept
}

// excluded says whether a name is left out whatever it is.
func (s scope) excluded(name string) bool {
	switch {
	case strings.HasPrefix(name, "pgsql_tmp"), strings.HasPrefix(name, "pg_internal.init"), name == ".DS_Store":
		return true
	case s.path == "":
		return topFiles[name]
	case s.kind == globalDir:
		return name == "pg_control"
	case s.kind != dbDir:
		return false
	case isTemp(name):
		return true
	}
	// An unlogged relation has an init fork, which the server makes the relation from after a recovery.
	// The other forks' content could be anything by then. The whole directory's names are known, so that
	// the order in which they were read does not matter.
	node, fork, _, ok := parseRelation(name)
	if !ok || fork == "init" {
		return false
	}
	_, unlogged := slices.BinarySearch(s.names, node+"_init")
	return unlogged && !s.unlogged
}

// parseRelation takes the name of a relation's file apart: NODE[_FORK][.SEGNO].
func parseRelation(name string) (node, fork string, segno uint32, ok bool) {
	rest, number, segmented := strings.Cut(name, ".")
	if segmented {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || !allDigits(number) {
			return "", "", 0, false
		}
		segno = uint32(n)
	}
	node, fork, forked := strings.Cut(rest, "_")
	if !allDigits(node) || forked && fork != "fsm" && fork != "vm" && fork != "init" {
		return "", "", 0, false
	}
	return node, fork, segno, true
}

// isTemp knows a temporary relation's file: tBACKEND_NODE[_FORK][.SEGNO].
func isTemp(name string) bool {
	backend, rest, ok := strings.Cut(strings.TrimPrefix(name, "t"), "_")
	if !ok || !strings.HasPrefix(name, "t") || !allDigits(backend) {
		return false
	}
	_, _, _, ok = parseRelation(rest)
	return ok
}

// isSpacePath knows pg_tblspc/OID.
func isSpacePath(path string) bool {
	dir, name, ok := strings.Cut(path, "/")
	_, is := SpaceOID(name)
	return ok && dir == "pg_tblspc" && is
}

// SpaceOID reads a name in pg_tblspc. PostgreSQL takes no other for a tablespace than an OID as it writes it (do_pg_backup_start
// in xlog.c): with another name it is something that somebody has put there.
func SpaceOID(name string) (uint32, bool) {
	oid, err := strconv.ParseUint(name, 10, 32)
	return uint32(oid), err == nil && strconv.FormatUint(oid, 10) == name
}

// isVersionDir knows the directory of one PostgreSQL version in a tablespace: PG_MAJOR_CATALOG.
func isVersionDir(name string) bool {
	v, ok := strings.CutPrefix(name, "PG_")
	major, catalog, two := strings.Cut(v, "_")
	return ok && two && allDigits(strings.Replace(major, ".", "", 1)) && allDigits(catalog)
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

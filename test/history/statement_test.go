package history

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// change is a kind of statement: it says in which database, and what; nothing where there is nothing to do it to.
type change struct {
	kind   string
	weight int
	make   func(h *history) (db string, sql []string)
}

var changes = []change{
	{"create database", 7, createDatabase},
	{"drop database", 3, func(h *history) (string, []string) { return h.onDatabase("DROP DATABASE %s") }},
	{"rename database", 1, func(h *history) (string, []string) {
		return h.onDatabase("ALTER DATABASE %s RENAME TO " + h.name("d"))
	}},
	{"limit database", 1, func(h *history) (string, []string) { return h.onDatabase("ALTER DATABASE %s CONNECTION LIMIT 7") }},
	{"move database", 3, moveDatabase},
	{"copy and drop database", 3, func(h *history) (string, []string) {
		db, sql := h.onDatabase("DROP DATABASE %s")
		if len(sql) == 0 {
			return "", nil
		}
		return db, []string{"CREATE DATABASE " + h.name("d") + " TEMPLATE " + strings.TrimPrefix(sql[0], "DROP DATABASE ") + h.strategy() + h.in(), sql[0]}
	}},
	{"create tablespace", 4, createTablespace},
	{"drop tablespace", 1, dropTablespace},
	{"rename tablespace", 1, func(h *history) (string, []string) {
		if all := h.tablespaces(); len(all) > 0 {
			return "postgres", []string{"ALTER TABLESPACE " + pick(h, all) + " RENAME TO " + h.name("ts")}
		}
		return "", nil
	}},
	{"create table", 14, createTable},
	{"create partitioned table", 2, createPartitioned},
	{"create unlogged table", 2, func(h *history) (string, []string) {
		n := h.name("t")
		return h.database(), []string{"CREATE UNLOGGED TABLE " + n + " (id int PRIMARY KEY, a int, b text)" + h.in(),
			"INSERT INTO " + n + " SELECT i, i, repeat('u', i % 100) FROM generate_series(1, 300) i"}
	}},
	{"insert", 12, func(h *history) (string, []string) { return h.onTable(insert(h)) }},
	{"update", 8, func(h *history) (string, []string) {
		return h.onTable(fmt.Sprintf("UPDATE %%s SET a = a + 1, b = left(b, 50) || '%s' WHERE id %% %d = 0", h.name("u"), 2+h.IntN(5)))
	}},
	{"delete", 4, func(h *history) (string, []string) {
		return h.onTable(fmt.Sprintf("DELETE FROM %%s WHERE id %% %d = 1", 2+h.IntN(5)))
	}},
	{"roll back", 2, func(h *history) (string, []string) {
		return h.onTable("BEGIN; TRUNCATE %s; INSERT INTO %s (id, a) VALUES (-1, 0); CREATE TABLE gone AS SELECT * FROM %s; ROLLBACK")
	}},
	{"savepoints", 2, func(h *history) (string, []string) {
		return h.onTable("BEGIN; SAVEPOINT s; DELETE FROM %s; ROLLBACK TO s; UPDATE %s SET a = 7 WHERE id % 11 = 0; RELEASE s; COMMIT")
	}},
	{"two phases", 2, func(h *history) (string, []string) {
		n := h.name("p")
		return h.onTable("BEGIN; UPDATE %s SET a = 8 WHERE id % 7 = 0; PREPARE TRANSACTION '"+n+"'", pick(h, []string{"COMMIT", "ROLLBACK"})+" PREPARED '"+n+"'")
	}},
	{"truncate", 3, func(h *history) (string, []string) { return h.onTable("TRUNCATE %s", insert(h)) }},
	{"drop table", 3, func(h *history) (string, []string) { return h.onTable("DROP TABLE %s CASCADE") }},
	{"rename table", 1, func(h *history) (string, []string) { return h.onTable("ALTER TABLE %s RENAME TO " + h.name("t")) }},
	{"vacuum", 3, func(h *history) (string, []string) {
		return h.onTable(pick(h, []string{"VACUUM %s", "VACUUM FREEZE %s", "VACUUM ANALYZE %s"}))
	}},
	{"vacuum full", 3, func(h *history) (string, []string) { return h.onTable("VACUUM FULL %s") }},
	{"vacuum full catalog", 2, func(h *history) (string, []string) {
		return h.database(), []string{"VACUUM FULL " + pick(h, []string{"pg_class", "pg_attribute", "pg_database", "pg_proc", "pg_type"})}
	}},
	{"cluster", 2, func(h *history) (string, []string) { return h.onKeyed("CLUSTER %s USING %s") }},
	{"reindex", 2, func(h *history) (string, []string) { return h.onTable("REINDEX TABLE %s") }},
	{"create index", 4, func(h *history) (string, []string) {
		return h.onTable(pick(h, []string{"CREATE INDEX %s_a ON %s (a)", "CREATE INDEX ON %s (b)", "CREATE INDEX CONCURRENTLY ON %s (a, id)", "CREATE INDEX ON %s USING hash (a)",
			"CREATE INDEX ON %s USING gin (to_tsvector('simple', b))", "CREATE INDEX ON %s USING brin (a)"}) + h.in())
	}},
	{"move table", 4, func(h *history) (string, []string) { return h.onTable("ALTER TABLE %s SET TABLESPACE " + h.space()) }},
	{"move index", 2, func(h *history) (string, []string) {
		return h.onKeyed("ALTER INDEX %[2]s SET TABLESPACE " + h.space())
	}},
	{"unlog and log", 2, func(h *history) (string, []string) {
		return h.onPlain("ALTER TABLE %s SET UNLOGGED", "ALTER TABLE %s SET LOGGED")
	}},
	{"rewrite", 2, func(h *history) (string, []string) {
		return h.onPlain(pick(h, []string{"ALTER TABLE %s ALTER a TYPE bigint", "ALTER TABLE %s ALTER a TYPE numeric", "ALTER TABLE %s ADD c" + h.name("") + " text DEFAULT md5(random()::text)"}))
	}},
	{"materialized view", 3, func(h *history) (string, []string) {
		n := h.name("m")
		return h.onTable("CREATE MATERIALIZED VIEW "+n+h.in()+" AS SELECT id, a FROM %s", "CREATE UNIQUE INDEX ON "+n+" (id, a)", "REFRESH MATERIALIZED VIEW "+n)
	}},
	{"sequence", 3, func(h *history) (string, []string) {
		n := h.name("s")
		return h.database(), []string{"CREATE SEQUENCE " + n, fmt.Sprintf("SELECT count(nextval('%s')) FROM generate_series(1, %d)", n, 1+h.IntN(100))}
	}},
	{"large object", 3, func(h *history) (string, []string) {
		return h.database(), []string{fmt.Sprintf("SELECT lo_from_bytea(0, decode(repeat(md5('%s'), %d), 'hex'))", h.name("lo"), 1+h.IntN(400)),
			"SELECT lo_unlink((SELECT min(oid) FROM pg_largeobject_metadata)) WHERE (SELECT count(*) FROM pg_largeobject_metadata) > 3"}
	}},
	{"role", 2, func(h *history) (string, []string) {
		return "postgres", []string{"CREATE ROLE " + h.name("r") + pick(h, []string{"", " LOGIN", " CONNECTION LIMIT 3"}),
			"DO $$DECLARE r text := (SELECT min(rolname) FROM pg_roles WHERE rolname ~ '^r[0-9]' HAVING count(*) > 3); BEGIN IF r IS NOT NULL THEN EXECUTE 'DROP ROLE ' || r; END IF; END$$"}
	}},
	{"checkpoint", 3, func(h *history) (string, []string) { return "postgres", []string{"CHECKPOINT"} }},
	{"switch WAL", 3, func(h *history) (string, []string) { return "postgres", []string{"SELECT pg_switch_wal()"} }},
}

// directoryChanges copy or remove directories by WAL records that do not have what was in them: a backup during which
// they happen may be refused.
var directoryChanges = []string{"create database", "drop database", "copy and drop database", "move database", "drop tablespace", "create tablespace"}

// statement makes one change, and tells what it was. PostgreSQL may refuse it: the next mark shows what became of it.
func (h *history) statement() {
	h.Helper()
	total := 0
	for _, c := range changes {
		total += c.weight
	}
	n := h.IntN(total)
	for _, c := range changes {
		if n -= c.weight; n >= 0 {
			continue
		}
		if !slices.Contains(h.without, c.kind) {
			h.change(c)
		}
		return
	}
}

func (h *history) change(c change) {
	h.Helper()
	db, statements := c.make(h)
	if len(statements) == 0 {
		return
	}
	h.disturb()
	if slices.Contains(directoryChanges, c.kind) {
		h.directories++
	}
	for _, sql := range statements {
		_, err := h.query(db, sql)
		h.sum.count(c.kind, err == nil)
		if err != nil {
			h.note("%s: %s: %v", db, sql, err)
			return
		}
		h.note("%s: %s", db, sql)
	}
}

func (h *history) databases() []string {
	h.Helper()
	return h.names("postgres", `SELECT datname FROM pg_database WHERE datname ~ '^d[0-9]+' ORDER BY 1`)
}

func (h *history) database() string { return pick(h, append(h.databases(), "postgres", "postgres")) }

func (h *history) tablespaces() []string {
	h.Helper()
	return h.names("postgres", `SELECT spcname FROM pg_tablespace WHERE spcname ~ '^ts' ORDER BY 1`)
}

func (h *history) space() string { return pick(h, append(h.tablespaces(), "pg_default")) }

// in is a clause that puts something into a tablespace, or no clause.
func (h *history) in() string {
	if h.IntN(2) == 0 {
		return ""
	}
	return " TABLESPACE " + h.space()
}

func (h *history) onDatabase(sql string) (string, []string) {
	all := h.databases()
	if len(all) == 0 {
		return "", nil
	}
	return "postgres", []string{fmt.Sprintf(sql, pick(h, all))}
}

const permanentTables = `SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relname ~ '^t[0-9]'`

// onTable makes statements about one table, whose name takes the place of every %s.
func (h *history) onTable(sql ...string) (string, []string) {
	h.Helper()
	return h.onTableOf(permanentTables+` ORDER BY 1`, sql...)
}

// onPlain is onTable for tables that are nobody's partition.
func (h *history) onPlain(sql ...string) (string, []string) {
	h.Helper()
	return h.onTableOf(permanentTables+` AND NOT c.relispartition ORDER BY 1`, sql...)
}

func (h *history) onTableOf(query string, sql ...string) (string, []string) {
	h.Helper()
	db := h.database()
	tables := h.names(db, query)
	if len(tables) == 0 {
		return "", nil
	}
	name := pick(h, tables)
	var statements []string
	for _, s := range sql {
		statements = append(statements, strings.ReplaceAll(s, "%s", name))
	}
	return db, statements
}

// onKeyed is a statement about a table and its primary key.
func (h *history) onKeyed(sql string) (string, []string) {
	h.Helper()
	db := h.database()
	tables := h.names(db, `SELECT c.relname || ',' || k.relname FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary JOIN pg_class k ON k.oid = i.indexrelid
		WHERE c.relname ~ '^t[0-9]' AND c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY 1`)
	if len(tables) == 0 {
		return "", nil
	}
	table, key, _ := strings.Cut(pick(h, tables), ",")
	return db, []string{strings.ReplaceAll(strings.Replace(strings.Replace(sql, "%s", table, 1), "%s", key, 1), "%[2]s", key)}
}

func createDatabase(h *history) (string, []string) {
	all := h.databases()
	if len(all) >= 4 {
		return h.onDatabase("DROP DATABASE %s")
	}
	sql := "CREATE DATABASE " + h.name("d")
	if h.IntN(3) > 0 {
		sql += " TEMPLATE " + pick(h, append(all, "template0", "template1", "postgres"))
	}
	return "postgres", []string{sql + h.strategy() + h.in()}
}

func (h *history) strategy() string {
	if h.major < 15 {
		return ""
	}
	return pick(h, []string{"", " STRATEGY file_copy", " STRATEGY wal_log"})
}

func moveDatabase(h *history) (string, []string) {
	all := h.databases()
	if len(all) == 0 {
		return "", nil
	}
	db := pick(h, all)
	return "postgres", []string{"ALTER DATABASE " + db + " SET TABLESPACE " + h.space()}
}

// createTablespace makes it outside of the data directory. A standby on this host would make its own in the same place,
// so while there is one it lies in pg_tblspc.
func createTablespace(h *history) (string, []string) {
	if len(h.tablespaces()) >= 4 {
		return dropTablespace(h)
	}
	name, place := h.name("ts"), ""
	if h.standby == nil && h.IntN(4) > 0 {
		used := h.names("postgres", `SELECT pg_tablespace_location(oid) FROM pg_tablespace`)
		free := slices.DeleteFunc(slices.Clone(h.places), func(p string) bool { return slices.Contains(used, p) })
		if len(free) > 0 && h.IntN(2) == 0 {
			place = pick(h, free) // of one that was dropped
		} else {
			place = filepath.Join(h.spaces, name)
			h.places = append(h.places, place)
		}
		h.mkdir(place)
		h.newSpace = true
	}
	return "postgres", []string{"CREATE TABLESPACE " + name + " LOCATION '" + place + "'"}
}

// dropTablespace empties it, as far as databases and tables are concerned that are to be had.
func dropTablespace(h *history) (string, []string) {
	all := h.tablespaces()
	if len(all) == 0 {
		return "", nil
	}
	name := pick(h, all)
	for _, db := range append(h.databases(), "postgres") {
		for _, what := range []string{"TABLE", "INDEX", "MATERIALIZED VIEW"} {
			if _, err := h.query(db, "ALTER "+what+" ALL IN TABLESPACE "+name+" SET TABLESPACE pg_default"); err != nil {
				h.note("%s: empty %s: %v", db, name, err)
			}
		}
		if h.sql("postgres", `SELECT spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = '`+db+`'`) == name {
			return "postgres", []string{"ALTER DATABASE " + db + " SET TABLESPACE pg_default"}
		}
	}
	return "postgres", []string{"DROP TABLESPACE " + name}
}

func createTable(h *history) (string, []string) {
	n := h.name("t")
	switch h.IntN(4) {
	case 0: // wide values: TOAST
		return h.database(), []string{"CREATE TABLE " + n + " (id int PRIMARY KEY, a int, b text)" + h.in(), "ALTER TABLE " + n + " ALTER b SET STORAGE EXTERNAL",
			"INSERT INTO " + n + " SELECT i, i, repeat(md5(i::text), 150) FROM generate_series(1, 40) i"}
	case 1: // no key
		return h.database(), []string{"CREATE TABLE " + n + h.in() + " AS SELECT i AS id, i % 10 AS a, md5(i::text) AS b FROM generate_series(1, 1000) i"}
	case 2:
		return h.database(), []string{"CREATE TABLE " + n + " (id serial PRIMARY KEY, a int, b text)" + h.in(), "INSERT INTO " + n + " (a, b) SELECT i, md5(i::text) FROM generate_series(1, 500) i"}
	default:
		return h.database(), []string{"CREATE TABLE " + n + " (id int PRIMARY KEY, a int, b text)" + h.in(), strings.ReplaceAll(insert(h), "%s", n)}
	}
}

func createPartitioned(h *history) (string, []string) {
	n := h.name("t")
	key := ""
	if h.major >= 11 {
		key = " PRIMARY KEY"
	}
	return h.database(), []string{"CREATE TABLE " + n + "p (id int" + key + ", a int, b text) PARTITION BY RANGE (id)",
		"CREATE TABLE " + n + " PARTITION OF " + n + "p FOR VALUES FROM (MINVALUE) TO (500)" + h.in(),
		"CREATE TABLE " + n + "1 PARTITION OF " + n + "p FOR VALUES FROM (500) TO (MAXVALUE)" + h.in(),
		"INSERT INTO " + n + "p SELECT i, i, md5(i::text) FROM generate_series(1, 1000) i"}
}

// insert adds rows after the last key of a table. A partition takes what is left of its range, or refuses.
func insert(h *history) string {
	return fmt.Sprintf("INSERT INTO %%s (id, a, b) SELECT n + i, i, repeat(md5((n + i)::text), %d) FROM generate_series(1, %d) i, (SELECT coalesce(max(id), 0) AS n FROM %%s) x",
		1+h.IntN(3), 50+h.IntN(800))
}

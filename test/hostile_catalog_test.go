package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// deep stands for JSON of a million arrays in each other, which Go would not write.
const deep = "a million arrays"

func deepen(data []byte) []byte {
	return bytes.ReplaceAll(data, []byte(`"`+deep+`"`), []byte(strings.Repeat("[", 1_000_000)+strings.Repeat("]", 1_000_000)))
}

// hostileDescriptions are backup.json files, whose hash the log has.
func hostileDescriptions() (all []forgery) {
	add := func(name string, do func(f *forger)) { all = append(all, forgery{name: "backup.json " + name, do: do}) }
	set := func(member string, value any, more ...forgery) {
		c := forgery{name: fmt.Sprintf("backup.json with %s %.40s", member, fmt.Sprint(value)), do: func(f *forger) {
			f.json = func(m object) { m[member] = value }
		}}
		if len(more) > 0 {
			c.code, c.says, c.harmless = more[0].code, more[0].says, more[0].harmless
		}
		all = append(all, c)
	}
	harmless := forgery{harmless: true}
	target := forgery{code: exitTarget, says: "cannot restore there"}
	set("format", "something else")
	set("id", "20200101T000000Z-0000")
	set("version", 2, forgery{code: 12, says: "backup.json"})
	set("version", 0)
	set("version", -1)
	set("version", "one")
	set("system_id", "no number")
	for _, n := range []int{-1, 0, 9, 80400, math.MaxInt32} {
		set("pg_version", n)
	}
	for _, n := range []any{-1, 0, 1, 3 << 20, 1 << 62, json.Number("4294967296"), json.Number("9223372036854775807"), json.Number("1e99"), "16MB"} {
		set("wal_segment_size", n)
	}
	for _, n := range []any{0, json.Number("4294967295"), json.Number("4294967296"), -1} {
		set("timeline", n)
	}
	for _, lsn := range []any{"FFFFFFFF/FFFFFFFF", "0/0", "x", "1/2/3", 7} {
		set("start_lsn", lsn)
		set("stop_lsn", lsn)
	}
	for _, n := range []any{-1, json.Number("9223372036854775807"), json.Number("-9223372036854775808")} {
		if n == -1 || fmt.Sprint(n)[0] == '-' {
			set("size", n)
			set("files", n)
		} else {
			set("size", n, target)
			set("files", n, harmless)
		}
	}
	set("size", 0)
	set("damaged_pages", 5, harmless)
	set("damaged_pages", -5, harmless)
	set("first_wal", "../../evil", harmless)
	set("first_wal", strings.Repeat("x", 100_000), harmless)
	set("pgdata", "", harmless)
	set("pgdata", "/", harmless)
	set("pgdata", "../..", harmless)
	set("pgdata", "a\x00b", harmless)
	set("owner", "../../etc/passwd", harmless) // only root looks at it
	set("from", "the moon", harmless)
	set("host", strings.Repeat("x", 1_000_000), harmless)
	set("warnings", deep)
	set("unknown", deep)
	set("parts", []any{object{"name": "../../evil", "size": -1, "raw": math.MaxInt64, "live": math.MaxInt64}}, harmless)
	set("parts", []any{nil}, harmless)
	set("manifest", object{"size": -1, "sha256": ""})
	set("manifest", nil)
	set("started", "9999-99-99")
	set("catalog_version", -1)
	space := func(name string, more forgery, spaces ...any) {
		all = append(all, forgery{name: "tablespace " + name, code: more.code, says: more.says, harmless: more.harmless, args: more.args, do: func(f *forger) {
			f.json = func(m object) {
				var list []any
				for _, s := range spaces {
					if o, ok := s.(object); ok {
						if l, ok := o["location"].(string); ok {
							o["location"] = strings.ReplaceAll(l, "$VICTIM", f.victim)
						}
					}
					list = append(list, s)
				}
				m["tablespaces"] = list
			}
		}})
	}
	at := func(oid any, name, location string) object {
		return object{"oid": oid, "name": name, "location": location}
	}
	space("null", harmless, nil)
	space("relative", forgery{}, at(99999, "evil", "../victim"))
	space("in somebody's folder", target, at(99999, "evil", "$VICTIM"))
	space("in the root of the host", target, at(99999, "evil", "/"))
	space("in a device", target, at(99999, "evil", "/dev/null"))
	space("in a file", target, at(99999, "evil", "$VICTIM/precious"))
	space("with a zero byte", forgery{}, at(99999, "evil", "/tmp/a\x00b"))
	space("of a huge name", forgery{code: exitTarget, says: "ERROR:  tablespace xxx"}, at(99999, strings.Repeat("x", 1_000_000), "$VICTIM"))
	space("of a huge place", target, at(99999, "evil", "/"+strings.Repeat("x", 100_000)))
	space("with a negative OID", forgery{}, at(-1, "evil", "$VICTIM"))
	space("with too high an OID", forgery{}, at(json.Number("4294967296"), "evil", "$VICTIM"))
	space("twice", target, at(99999, "evil", "$VICTIM/../data/x"), at(99999, "evil", "$VICTIM/../data/x"))
	space("in the data directory's base", harmless, at(99999, "evil", "$VICTIM/../data/base"))
	space("that is the data directory", target, at(99999, "evil", "$VICTIM/../data"))
	space("above the data directory", target, at(99999, "evil", "$VICTIM/.."))
	space("by name up", forgery{harmless: true, args: []string{"--tablespace-map-all", "data.spaces"}}, at(99999, "../victim", "$VICTIM"))
	conf := func(name string, more forgery, files ...any) {
		all = append(all, forgery{name: "configuration " + name, code: more.code, says: more.says, harmless: more.harmless, args: []string{"--config-dir", "$VICTIM/../data.conf"}, do: func(f *forger) {
			f.json = func(m object) { m["config_files"] = files }
		}})
	}
	file := func(path string) object { return object{"path": path, "content": "ZXZpbCA9IG9u"} }
	conf("up", forgery{}, file("../victim/evil"), file("../victim/precious"))
	conf("up and elsewhere", forgery{}, file("../victim/evil"), file("/etc/evil"))
	conf("of an empty name", forgery{}, file(""))
	conf("that is a folder", forgery{}, file("/etc/postgresql"), file("/etc/postgresql/a"))
	conf("twice", forgery{}, file("/etc/a"), file("/etc/a"))
	conf("with a zero byte", forgery{}, file("/etc/a\x00b"), file("/etc/c"))
	conf("that ends up", forgery{}, file("/etc/a/.."), file("/etc/b"))
	conf("of a root", forgery{}, file("/"))
	conf("that is no base64", forgery{}, object{"path": "/etc/a", "content": "***"})
	add("that is empty", func(f *forger) { f.bytes = []byte{} })
	add("that is null", func(f *forger) { f.bytes = []byte("null") })
	add("that is a list", func(f *forger) { f.bytes = []byte("[]") })
	add("that is no JSON", func(f *forger) { f.bytes = []byte("evil") })
	add("of arrays in arrays", func(f *forger) { f.bytes = bytes.Repeat([]byte("["), 30<<20) })
	add("of 80 MB of blanks", func(f *forger) { f.bytes = bytes.Repeat([]byte(" "), 80<<20) })
	all = append(all, forgery{name: "backup.json of 300 MB", do: func(f *forger) {
		f.last = func() { sparse(f, filepath.Join("backups", f.id, "backup.json"), 300<<20) }
	}})
	return all
}

// sparse makes an object of many zeros.
func sparse(f *forger, name string, size int64) {
	f.t.Helper()
	path := filepath.Join(f.repo, "main", name)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	putFile(f.t, path, nil)
	if err := os.Truncate(path, size); err != nil {
		f.t.Fatal(err)
	}
}

// hostileRecords are logs and checkpoints, all of whose hashes hold.
func hostileRecords() (all []forgery) {
	const log = "catalog/log/"
	// edit changes the record of a type.
	edit := func(name, kind string, more forgery, do func(r, body object)) {
		more.name = "record: " + name
		more.do = func(f *forger) {
			f.record = func(r object) {
				if r["type"] == kind {
					body, _ := r[kind].(object)
					do(r, body)
				}
			}
		}
		all = append(all, more)
	}
	says := forgery{says: log, harmless: true} // a backup that is named is restored, with a warning, if its own records hold
	edit("of a newer version", "commit", forgery{code: 6, says: "no complete backup"}, func(r, _ object) { r["version"] = 2 })
	edit("of an unknown type", "commit", forgery{code: 6, says: "no complete backup"}, func(r, _ object) { r["type"] = "evil" })
	edit("without its body", "commit", forgery{code: 6, says: "no complete backup"}, func(r, _ object) { delete(r, "commit") })
	edit("with null as its body", "commit", forgery{code: 6, says: "no complete backup"}, func(r, _ object) { r["commit"] = nil })
	for _, n := range []any{0, -1, 1, 9999999999, "3", json.Number("1e300")} {
		edit(fmt.Sprintf("with the number %v", n), "commit", says, func(r, _ object) { r["n"] = n })
	}
	edit("with another one's hash", "commit", says, func(r, _ object) { r["prev"] = strings.Repeat("0", 64) })
	edit("without the hash of the one before", "commit", says, func(r, _ object) { r["prev"] = "" })
	edit("with a bad time", "commit", says, func(r, _ object) { r["time"] = "yesterday" })
	edit("commit of what never began", "commit", says, func(_, b object) { b["backup"] = "20200101T000000Z-0000" })
	edit("commit of a path", "commit", says, func(_, b object) { b["backup"] = "../../evil" })
	edit("commit of another hash", "commit", forgery{}, func(_, b object) { b["sha256"] = strings.Repeat("0", 64) })
	edit("commit without a summary", "commit", forgery{}, func(_, b object) { delete(b, "summary") })
	for _, n := range []any{0, -1, json.Number("4294967295"), "x"} {
		more := forgery{}
		if n == -1 || n == "x" {
			more = forgery{says: log}
		}
		edit(fmt.Sprintf("commit on timeline %v", n), "commit", more, func(_, b object) { b["summary"].(object)["timeline"] = n })
	}
	for _, lsn := range []string{"0/0", "FFFFFFFF/FFFFFFFF"} {
		edit("commit at "+lsn, "commit", forgery{}, func(_, b object) { b["summary"].(object)["stop_lsn"] = lsn })
	}
	for _, wal := range []string{"", "Z", "../../evil", "000000020000000000000001"} {
		edit("commit that needs WAL up to "+wal, "commit", forgery{}, func(_, b object) { b["summary"].(object)["last_wal"] = wal })
	}
	edit("commit of another cluster", "commit", forgery{}, func(_, b object) { b["summary"].(object)["system_id"] = "1" })
	edit("begin of a path", "begin", says, func(_, b object) { b["backup"] = "../../../victim" })
	edit("begin without a name", "begin", says, func(_, b object) { b["backup"] = "" })
	edit("of arrays in arrays", "commit", says, func(_, b object) { b["more"] = deep })
	edit("server of no segment size", "server", says, func(_, b object) { b["wal_segment_size"] = 0 })
	edit("server of an impossible segment size", "server", says, func(_, b object) { b["wal_segment_size"] = json.Number("4294967296") })

	object2 := func(name, key string, more forgery, data func(f *forger) []byte) {
		more.name = name
		more.do = func(f *forger) {
			f.last = func() {
				path := filepath.Join(f.repo, "main", key)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					f.t.Fatal(err)
				}
				_ = os.Remove(path) // it may be there
				putFile(f.t, path, data(f))
			}
		}
		all = append(all, more)
	}
	harmless := forgery{harmless: true}
	next := func(kind string, body any) func(f *forger) []byte {
		return func(f *forger) []byte {
			prev := sha(readFile(f.t, filepath.Join(f.repo, "main/catalog/log/0000000003.json")))
			return sealed(f.t, object{"version": 1, "n": 4, "prev": prev, "time": "2026-01-01T00:00:00Z", "by": "evil", "type": kind, kind: body})
		}
	}
	record := log + "0000000004.json"
	object2("record: delete of what never was", record, forgery{harmless: true}, next("delete", object{"backups": []any{"evil"}}))
	for _, parts := range []string{"1-9223372036854775807", "5-1", "-1", "1-99999999999999999999", "x", "1,,2", strings.Repeat("1,", 1_000_000) + "1"} {
		object2("record: delete of parts "+parts[:min(len(parts), 30)], record, harmless, next("delete", object{"parts": object{"evil": parts}}))
	}
	object2("record: delete of all WAL", record, harmless, next("delete", object{"wal": []any{object{"system_id": "1", "first": "", "last": "~"}}}))
	object2("record: purge of nothing", record, harmless, next("purged", object{"of": -1}))
	object2("record: pin of what never was", record, harmless, next("pin", object{"backup": "evil"}))
	object2("record: begin again", record, harmless, func(f *forger) []byte { return next("begin", object{"backup": f.id, "system_id": "1"})(f) })
	object2("record: an end far away", log+"9999999999.json", harmless, func(*forger) []byte { return []byte("{}") })
	object2("record: an end not so far away", log+"0000100000.json", harmless, func(*forger) []byte { return []byte("{}") })
	all = append(all, forgery{name: "record of 300 MB", harmless: true, do: func(f *forger) { f.last = func() { sparse(f, record, 300<<20) } }})

	checkpoint := func(name string, more forgery, n int64, state any) {
		object2("checkpoint: "+name, fmt.Sprintf("catalog/checkpoints/%010d-%010d.json", 9999999999-n, n), more, func(f *forger) []byte {
			if s, ok := state.(func(f *forger) any); ok {
				state = s(f)
			}
			return sealed(f.t, object{"version": 1, "state": state})
		})
	}
	head := func(f *forger) string {
		return sha(readFile(f.t, filepath.Join(f.repo, "main/catalog/log/0000000003.json")))
	}
	checkpoint("null entry", harmless, 3, func(f *forger) any { return object{"n": 3, "head": head(f), "entries": []any{nil}} })
	checkpoint("complete without a commit", harmless, 3, func(f *forger) any {
		return object{"n": 3, "head": head(f), "entries": []any{object{"id": f.id, "status": "complete"}}, "committed": []any{f.id}}
	})
	checkpoint("committed what is not there", harmless, 3, func(f *forger) any { return object{"n": 3, "head": head(f), "committed": []any{"evil"}} })
	checkpoint("another number than its name's", harmless, 3, object{"n": 2})
	checkpoint("a negative number", harmless, 3, object{"n": -3})
	checkpoint("null state", harmless, 3, nil)
	checkpoint("from before the log", forgery{harmless: true}, 1, object{"n": 1, "head": strings.Repeat("0", 64)})
	checkpoint("from the future", forgery{code: 6, says: "no complete backup"}, 9999999998, object{"n": 9999999998})
	checkpoint("a status of its own", harmless, 3, func(f *forger) any {
		return object{"n": 3, "head": head(f), "entries": []any{object{"id": f.id, "status": "evil"}}, "committed": []any{f.id}}
	})
	checkpoint("with parts of a million ranges", harmless, 3, object{"n": 3, "condemned": object{"x": []any{strings.Repeat("1,", 1_000_000) + "x"}}})
	all = append(all, forgery{name: "checkpoint of 300 MB", harmless: true, do: func(f *forger) {
		f.last = func() { sparse(f, "catalog/checkpoints/9999999996-0000000003.json", 300<<20) }
	}})
	return all
}

package hostile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgobj/pgobj/test/site"
)

// hostileDescriptions are backup.json files, whose hash the log has.
func hostileDescriptions() (all []site.Forgery) {
	add := func(name string, do func(f *site.Forger)) {
		all = append(all, site.Forgery{Name: "backup.json " + name, Do: do})
	}
	set := func(member string, value any, more ...site.Forgery) {
		c := site.Forgery{Name: fmt.Sprintf("backup.json with %s %.40s", member, fmt.Sprint(value)), Do: func(f *site.Forger) {
			f.Json = func(m site.Object) { m[member] = value }
		}}
		if len(more) > 0 {
			c.Code, c.Kind, c.Says, c.Harmless = more[0].Code, more[0].Kind, more[0].Says, more[0].Harmless
		}
		all = append(all, c)
	}
	harmless := site.Forgery{Harmless: true}
	target := site.Forgery{Code: site.ExitTarget, Kind: "restore-directory"}
	set("format", "something else")
	set("id", "20200101T000000Z-0000")
	set("version", 2, site.Forgery{Code: 12, Says: "backup.json"})
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
	set("warnings", site.Deep)
	set("unknown", site.Deep)
	set("parts", []any{site.Object{"name": "../../evil", "size": -1, "raw": math.MaxInt64, "live": math.MaxInt64}}, harmless)
	set("parts", []any{nil}, harmless)
	set("manifest", site.Object{"size": -1, "sha256": ""})
	set("manifest", nil)
	set("started", "9999-99-99")
	set("catalog_version", -1)
	space := func(name string, more site.Forgery, spaces ...any) {
		all = append(all, site.Forgery{Name: "tablespace " + name, Code: more.Code, Kind: more.Kind, Says: more.Says, Harmless: more.Harmless, Args: more.Args, Do: func(f *site.Forger) {
			f.Json = func(m site.Object) {
				var list []any
				for _, s := range spaces {
					if o, ok := s.(site.Object); ok {
						if l, ok := o["location"].(string); ok {
							o["location"] = strings.ReplaceAll(l, "$VICTIM", f.Victim)
						}
					}
					list = append(list, s)
				}
				m["tablespaces"] = list
			}
		}})
	}
	at := func(oid any, name, location string) site.Object {
		return site.Object{"oid": oid, "name": name, "location": location}
	}
	space("null", harmless, nil)
	space("relative", site.Forgery{}, at(99999, "evil", "../victim"))
	space("in somebody's directory", target, at(99999, "evil", "$VICTIM"))
	space("in the root of the host", target, at(99999, "evil", "/"))
	space("in a device", target, at(99999, "evil", "/dev/null"))
	space("in a file", target, at(99999, "evil", "$VICTIM/precious"))
	space("with a zero byte", site.Forgery{}, at(99999, "evil", "/tmp/a\x00b"))
	space("of a huge name", site.Forgery{Code: site.ExitTarget, Kind: "restore-directory", Says: "tablespace xxx"}, at(99999, strings.Repeat("x", 1_000_000), "$VICTIM"))
	space("of a huge place", target, at(99999, "evil", "/"+strings.Repeat("x", 100_000)))
	space("with a negative OID", site.Forgery{}, at(-1, "evil", "$VICTIM"))
	space("with too high an OID", site.Forgery{}, at(json.Number("4294967296"), "evil", "$VICTIM"))
	space("twice", target, at(99999, "evil", "$VICTIM/../data/x"), at(99999, "evil", "$VICTIM/../data/x"))
	space("in the data directory's base", harmless, at(99999, "evil", "$VICTIM/../data/base"))
	space("that is the data directory", target, at(99999, "evil", "$VICTIM/../data"))
	space("above the data directory", target, at(99999, "evil", "$VICTIM/.."))
	space("by name up", site.Forgery{Harmless: true, Args: []string{"--tablespace-map-all", "data.spaces"}}, at(99999, "../victim", "$VICTIM"))
	conf := func(name string, more site.Forgery, files ...any) {
		all = append(all, site.Forgery{Name: "configuration " + name, Code: more.Code, Kind: more.Kind, Says: more.Says, Harmless: more.Harmless, Args: []string{"--config-dir", "$VICTIM/../data.conf"}, Do: func(f *site.Forger) {
			f.Json = func(m site.Object) { m["config_files"] = files }
		}})
	}
	file := func(path string) site.Object { return site.Object{"path": path, "content": "ZXZpbCA9IG9u"} }
	conf("up", site.Forgery{}, file("../victim/evil"), file("../victim/precious"))
	conf("up and elsewhere", site.Forgery{}, file("../victim/evil"), file("/etc/evil"))
	conf("of an empty name", site.Forgery{}, file(""))
	conf("that is a directory", site.Forgery{}, file("/etc/postgresql"), file("/etc/postgresql/a"))
	conf("twice", site.Forgery{}, file("/etc/a"), file("/etc/a"))
	conf("with a zero byte", site.Forgery{}, file("/etc/a\x00b"), file("/etc/c"))
	conf("that ends up", site.Forgery{}, file("/etc/a/.."), file("/etc/b"))
	conf("of a root", site.Forgery{}, file("/"))
	conf("that is no base64", site.Forgery{}, site.Object{"path": "/etc/a", "content": "***"})
	add("that is empty", func(f *site.Forger) { f.Bytes = []byte{} })
	add("that is null", func(f *site.Forger) { f.Bytes = []byte("null") })
	add("that is a list", func(f *site.Forger) { f.Bytes = []byte("[]") })
	add("that is no JSON", func(f *site.Forger) { f.Bytes = []byte("evil") })
	add("of arrays in arrays", func(f *site.Forger) { f.Bytes = bytes.Repeat([]byte("["), 30<<20) })
	add("of 80 MB of blanks", func(f *site.Forger) { f.Bytes = bytes.Repeat([]byte(" "), 80<<20) })
	all = append(all, site.Forgery{Name: "backup.json of 300 MB", Do: func(f *site.Forger) {
		f.Last = func() { sparse(f, filepath.Join("backups", f.Id, "backup.json"), 300<<20) }
	}})
	return all
}

// sparse makes an object of many zeros.
func sparse(f *site.Forger, name string, size int64) {
	f.T.Helper()
	path := filepath.Join(f.Repo, "main", name)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		f.T.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.T.Fatal(err)
	}
	site.PutFile(f.T, path, nil)
	if err := os.Truncate(path, size); err != nil {
		f.T.Fatal(err)
	}
}

// hostileRecords are logs and checkpoints, all of whose hashes hold.
func hostileRecords() (all []site.Forgery) {
	const log = "catalog/log/"
	// edit changes the record of a type.
	edit := func(name, kind string, more site.Forgery, do func(r, body site.Object)) {
		more.Name = "record: " + name
		more.Do = func(f *site.Forger) {
			f.Record = func(r site.Object) {
				if r["type"] == kind {
					body, _ := r[kind].(site.Object)
					do(r, body)
				}
			}
		}
		all = append(all, more)
	}
	says := site.Forgery{Says: log, Harmless: true} // a backup that is named is restored, with a warning, if its own records hold
	edit("of a newer version", "commit", site.Forgery{Code: 6, Kind: "no-backup"}, func(r, _ site.Object) { r["version"] = 2 })
	edit("of an unknown type", "commit", site.Forgery{Code: 6, Kind: "no-backup"}, func(r, _ site.Object) { r["type"] = "evil" })
	edit("without its body", "commit", site.Forgery{Code: 6, Kind: "no-backup"}, func(r, _ site.Object) { delete(r, "commit") })
	edit("with null as its body", "commit", site.Forgery{Code: 6, Kind: "no-backup"}, func(r, _ site.Object) { r["commit"] = nil })
	for _, n := range []any{0, -1, 1, 9999999999, "3", json.Number("1e300")} {
		edit(fmt.Sprintf("with the number %v", n), "commit", says, func(r, _ site.Object) { r["n"] = n })
	}
	edit("with another one's hash", "commit", says, func(r, _ site.Object) { r["prev"] = strings.Repeat("0", 64) })
	edit("without the hash of the one before", "commit", says, func(r, _ site.Object) { r["prev"] = "" })
	edit("with a bad time", "commit", says, func(r, _ site.Object) { r["time"] = "yesterday" })
	edit("commit of what never began", "commit", says, func(_, b site.Object) { b["backup"] = "20200101T000000Z-0000" })
	edit("commit of a path", "commit", says, func(_, b site.Object) { b["backup"] = "../../evil" })
	edit("commit of another hash", "commit", site.Forgery{}, func(_, b site.Object) { b["sha256"] = strings.Repeat("0", 64) })
	edit("commit without a summary", "commit", site.Forgery{}, func(_, b site.Object) { delete(b, "summary") })
	for _, n := range []any{0, -1, json.Number("4294967295"), "x"} {
		more := site.Forgery{}
		if n == -1 || n == "x" {
			more = site.Forgery{Says: log}
		}
		edit(fmt.Sprintf("commit on timeline %v", n), "commit", more, func(_, b site.Object) { b["summary"].(site.Object)["timeline"] = n })
	}
	for _, lsn := range []string{"0/0", "FFFFFFFF/FFFFFFFF"} {
		edit("commit at "+lsn, "commit", site.Forgery{}, func(_, b site.Object) { b["summary"].(site.Object)["stop_lsn"] = lsn })
	}
	for _, wal := range []string{"", "Z", "../../evil", "000000020000000000000001"} {
		edit("commit that needs WAL up to "+wal, "commit", site.Forgery{}, func(_, b site.Object) { b["summary"].(site.Object)["last_wal"] = wal })
	}
	edit("commit of another cluster", "commit", site.Forgery{}, func(_, b site.Object) { b["summary"].(site.Object)["system_id"] = "1" })
	edit("begin of a path", "begin", says, func(_, b site.Object) { b["backup"] = "../../../victim" })
	edit("begin without a name", "begin", says, func(_, b site.Object) { b["backup"] = "" })
	edit("of arrays in arrays", "commit", says, func(_, b site.Object) { b["more"] = site.Deep })
	edit("server of no segment size", "server", says, func(_, b site.Object) { b["wal_segment_size"] = 0 })
	edit("server of an impossible segment size", "server", says, func(_, b site.Object) { b["wal_segment_size"] = json.Number("4294967296") })

	object2 := func(name, key string, more site.Forgery, data func(f *site.Forger) []byte) {
		more.Name = name
		more.Do = func(f *site.Forger) {
			f.Last = func() {
				path := filepath.Join(f.Repo, "main", key)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					f.T.Fatal(err)
				}
				_ = os.Remove(path) // it may be there
				site.PutFile(f.T, path, data(f))
			}
		}
		all = append(all, more)
	}
	harmless := site.Forgery{Harmless: true}
	next := func(kind string, body any) func(f *site.Forger) []byte {
		return func(f *site.Forger) []byte {
			prev := sha(site.ReadFile(f.T, filepath.Join(f.Repo, "main/catalog/log/0000000003.json")))
			return site.Sealed(f.T, site.Object{"version": 1, "n": 4, "prev": prev, "time": "2026-01-01T00:00:00Z", "by": "evil", "type": kind, kind: body})
		}
	}
	record := log + "0000000004.json"
	object2("record: delete of what never was", record, site.Forgery{Harmless: true}, next("delete", site.Object{"backups": []any{"evil"}}))
	for _, parts := range []string{"1-9223372036854775807", "5-1", "-1", "1-99999999999999999999", "x", "1,,2", strings.Repeat("1,", 1_000_000) + "1"} {
		object2("record: delete of parts "+parts[:min(len(parts), 30)], record, harmless, next("delete", site.Object{"parts": site.Object{"evil": parts}}))
	}
	object2("record: delete of all WAL", record, harmless, next("delete", site.Object{"wal": []any{site.Object{"system_id": "1", "first": "", "last": "~"}}}))
	object2("record: purge of nothing", record, harmless, next("purged", site.Object{"of": -1}))
	object2("record: pin of what never was", record, harmless, next("pin", site.Object{"backup": "evil"}))
	object2("record: begin again", record, harmless, func(f *site.Forger) []byte { return next("begin", site.Object{"backup": f.Id, "system_id": "1"})(f) })
	object2("record: an end far away", log+"9999999999.json", harmless, func(*site.Forger) []byte { return []byte("{}") })
	object2("record: an end not so far away", log+"0000100000.json", harmless, func(*site.Forger) []byte { return []byte("{}") })
	all = append(all, site.Forgery{Name: "record of 300 MB", Harmless: true, Do: func(f *site.Forger) { f.Last = func() { sparse(f, record, 300<<20) } }})

	checkpoint := func(name string, more site.Forgery, n int64, state any) {
		object2("checkpoint: "+name, fmt.Sprintf("catalog/checkpoints/%010d-%010d.json", 9999999999-n, n), more, func(f *site.Forger) []byte {
			if s, ok := state.(func(f *site.Forger) any); ok {
				state = s(f)
			}
			return site.Sealed(f.T, site.Object{"version": 1, "state": state})
		})
	}
	head := func(f *site.Forger) string {
		return sha(site.ReadFile(f.T, filepath.Join(f.Repo, "main/catalog/log/0000000003.json")))
	}
	checkpoint("null entry", harmless, 3, func(f *site.Forger) any { return site.Object{"n": 3, "head": head(f), "entries": []any{nil}} })
	checkpoint("complete without a commit", harmless, 3, func(f *site.Forger) any {
		return site.Object{"n": 3, "head": head(f), "entries": []any{site.Object{"id": f.Id, "status": "complete"}}, "committed": []any{f.Id}}
	})
	checkpoint("committed what is not there", harmless, 3, func(f *site.Forger) any { return site.Object{"n": 3, "head": head(f), "committed": []any{"evil"}} })
	checkpoint("another number than its name's", harmless, 3, site.Object{"n": 2})
	checkpoint("a negative number", harmless, 3, site.Object{"n": -3})
	checkpoint("null state", harmless, 3, nil)
	checkpoint("from before the log", site.Forgery{Harmless: true}, 1, site.Object{"n": 1, "head": strings.Repeat("0", 64)})
	checkpoint("from the future", site.Forgery{Code: 6, Kind: "no-backup"}, 9999999998, site.Object{"n": 9999999998})
	checkpoint("a status of its own", harmless, 3, func(f *site.Forger) any {
		return site.Object{"n": 3, "head": head(f), "entries": []any{site.Object{"id": f.Id, "status": "evil"}}, "committed": []any{f.Id}}
	})
	checkpoint("with parts of a million ranges", harmless, 3, site.Object{"n": 3, "condemned": site.Object{"x": []any{strings.Repeat("1,", 1_000_000) + "x"}}})
	all = append(all, site.Forgery{Name: "checkpoint of 300 MB", Harmless: true, Do: func(f *site.Forger) {
		f.Last = func() { sparse(f, "catalog/checkpoints/9999999996-0000000003.json", 300<<20) }
	}})
	return all
}

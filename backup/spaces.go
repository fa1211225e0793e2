package backup

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/catalog"
)

// meet notes a tablespace that the walk comes to, with where its link leads.
func (p *push) meet(e cluster.Entry) {
	oid, err := strconv.ParseUint(path.Base(e.Path), 10, 32)
	if err != nil {
		return // no OID: PostgreSQL did not make it
	}
	to := e.Link
	if !filepath.IsAbs(to) { // made by hand: a link counts from its own folder
		to = filepath.Join(p.PGDATA, "pg_tblspc", to)
	}
	p.met[uint32(oid)] = to
}

// listTablespaces enters every tablespace that a restore needs a place for: those that the walk has met, those
// that recovery makes links for (tablespace_map), and those that there are in the end. The list from before the
// start lacks what was created since, and has what was dropped: with it alone, some of them cannot be restored.
func (p *push) listTablespaces() {
	at, names, taken := map[uint32]string{}, map[uint32]string{}, map[string]bool{}
	for _, t := range p.stop.Tablespaces {
		at[t.OID], names[t.OID], taken[t.Name] = t.Location, t.Name, true
	}
	maps.Copy(at, mapped(string(p.stop.TablespaceMap)))
	maps.Copy(at, p.met)
	known := map[uint32]bool{}
	for _, t := range p.info.Tablespaces {
		known[t.OID] = true
		if names[t.OID] == "" && !taken[t.Name] { // dropped meanwhile, and perhaps another has its name now
			names[t.OID] = t.Name
		}
	}
	for _, oid := range slices.Sorted(maps.Keys(at)) {
		t := catalog.Tablespace{OID: oid, Name: names[oid], Location: at[oid]}
		if t.Name == "" {
			t.Name = strconv.FormatUint(uint64(oid), 10)
		}
		p.backup.Tablespaces = append(p.backup.Tablespaces, t)
	}
	for _, t := range p.stop.Tablespaces {
		if !known[t.OID] && t.Location != "" {
			p.warn(fmt.Sprintf("pg_tblspc/%d", t.OID), fmt.Sprintf("tablespace %s was created while the backup began or ran: its recovery may make it at %s again, whatever --tablespace says: to restore elsewhere use the next backup", t.Name, t.Location))
		}
	}
}

// mapped reads a tablespace_map: locations by OID.
func mapped(text string) map[uint32]string {
	at := map[uint32]string{}
	for _, line := range mapLines(text) {
		oid, location, _ := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(oid, 10, 32); err == nil {
			at[uint32(n)] = unescapeMap(location)
		}
	}
	return at
}

// unescapeMap is escapeMap backwards.
func unescapeMap(p string) string {
	return strings.NewReplacer(`\\`, `\`, "\\\n", "\n", "\\\r", "\r").Replace(p)
}

// listed is the backup with the tablespaces of which only its manifest tells: an earlier pgobj did not list
// those that were created while it took the backup.
func (s *survey) listed(b *catalog.Backup) *catalog.Backup {
	all := *b
	all.Tablespaces = slices.Clone(b.Tablespaces)
	for _, oid := range slices.Sorted(maps.Keys(s.spaces)) {
		if !slices.ContainsFunc(b.Tablespaces, func(t catalog.Tablespace) bool { return t.OID == oid }) {
			all.Tablespaces = append(all.Tablespaces, catalog.Tablespace{OID: oid, Name: strconv.FormatUint(uint64(oid), 10), Location: s.spaces[oid]})
		}
	}
	return &all
}

// spaceOf is the OID of a tablespace's link in a manifest.
func spaceOf(f *manifest.File) (oid uint32, ok bool) {
	p := f.RawPath()
	if f.Type != manifest.TypeLink || path.Dir(p) != "pg_tblspc" {
		return 0, false
	}
	n, err := strconv.ParseUint(path.Base(p), 10, 32)
	return uint32(n), err == nil && strconv.FormatUint(n, 10) == path.Base(p)
}

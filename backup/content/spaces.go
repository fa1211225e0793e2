package content

import (
	"maps"
	"slices"
	"strconv"

	"github.com/pgobj/pgobj/catalog"
)

// Listed is the backup with the tablespaces of which only its manifest tells: an earlier pgobj did not list
// those that were created while it took the backup.
func (s *ManifestScan) Listed(b *catalog.Backup) *catalog.Backup {
	all := *b
	all.Tablespaces = slices.Clone(b.Tablespaces)
	for _, oid := range slices.Sorted(maps.Keys(s.Spaces)) {
		if !slices.ContainsFunc(b.Tablespaces, func(t catalog.Tablespace) bool { return t.OID == oid }) {
			all.Tablespaces = append(all.Tablespaces, catalog.Tablespace{OID: oid, Name: strconv.FormatUint(uint64(oid), 10), Location: s.Spaces[oid]})
		}
	}
	return &all
}

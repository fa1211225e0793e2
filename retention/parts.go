package retention

import (
	"fmt"

	"github.com/pgobj/pgobj/catalog"
)

// Part is one part by its owner, the backup that stored it, and its number there.
type Part struct {
	Backup string
	Number int
}

// Protected are the backups whose own parts must be left alone although no backup.json that can be read refers to
// them: what runs has stored them or reuses them, or what stays cannot tell what it refers to.
func Protected(p *Plan, h History) map[string]string {
	out := map[string]string{}
	for _, d := range p.Backups {
		switch {
		case !d.Keep:
		case d.Entry.Status == catalog.Complete && h.Unreadable[d.ID] != "":
			for _, id := range ancestry(h.State, d.ID) {
				out[id] = fmt.Sprintf("backup %s may refer to it", d.ID)
			}
		case d.Entry.Status != catalog.Complete:
			out[d.ID] = d.Reasons[0]
		}
		if d.Running {
			for _, id := range d.Entry.Begin.Reuses {
				out[id] = fmt.Sprintf("backup %s, which is running, may refer to it", d.ID)
			}
		}
	}
	return out
}

// ancestry is a backup with all that it may refer to: those that it reuses, those that they reuse …
func ancestry(s *catalog.State, id string) []string {
	out, seen := []string{id}, map[string]bool{id: true}
	for i := 0; i < len(out); i++ {
		if e := s.Entry(out[i]); e != nil {
			for _, r := range e.Begin.Reuses {
				if !seen[r] {
					seen[r] = true
					out = append(out, r)
				}
			}
		}
	}
	return out
}

// Condemn picks from candidates, which are parts that exist or did and that no backup which stays refers to, those
// that go.
func Condemn(candidates []Part, protected map[string]string) map[string]catalog.Ranges {
	numbers := map[string][]int{}
	for _, c := range candidates {
		if protected[c.Backup] == "" {
			numbers[c.Backup] = append(numbers[c.Backup], c.Number)
		}
	}
	out := map[string]catalog.Ranges{}
	for backup, n := range numbers {
		out[backup] = catalog.NewRanges(n)
	}
	return out
}

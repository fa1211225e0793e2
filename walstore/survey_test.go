package walstore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/survey"
)

// surveyed is what the archive lacks, as each timeline tells it.
func surveyed(t *testing.T, s storage.Store) string {
	t.Helper()
	all, err := survey.Examine(t.Context(), s, sysid, 0)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, v := range all {
		for _, h := range survey.Gaps(all, v) {
			told = append(told, fmt.Sprintf("%d: %s-%s", v.Timeline, h.First, h.Last[16:]))
		}
	}
	return fmt.Sprint(told)
}

// A timeline of which no segment is left is missing on the way to those that descend from it.
func TestGapsOfLostTimelines(t *testing.T) {
	name := func(tli, no int) string { return fmt.Sprintf("%08X00000000%08X", tli, no) }
	for what, c := range map[string]struct {
		segments  []string
		histories []int
		want      string
	}{
		"all there":            {[]string{name(1, 7), name(1, 8), name(2, 9), name(2, 10), name(2, 11), name(3, 12)}, []int{2, 3}, "[]"},
		"the middle one":       {[]string{name(1, 7), name(1, 8), name(3, 12), name(3, 13)}, []int{2, 3}, "[3: 000000020000000000000009-0000000B]"},
		"and its history file": {[]string{name(1, 7), name(1, 8), name(3, 12), name(3, 13)}, []int{3}, "[3: 000000020000000000000009-0000000B]"},
		"with ends":            {[]string{name(1, 7), name(3, 14)}, []int{2, 3}, "[3: 000000010000000000000008-00000008 3: 000000020000000000000009-0000000B 3: 00000003000000000000000C-0000000D]"},
		"two":                  {[]string{name(1, 8), name(4, 16)}, []int{4}, "[4: 000000020000000000000009-0000000B 4: 00000003000000000000000C-0000000D 4: 00000004000000000000000E-0000000F]"},
		"all before: deleted":  {[]string{name(3, 13)}, []int{2, 3}, "[]"},
		"only what came after": {[]string{name(1, 9), name(1, 10), name(3, 13)}, []int{2, 3}, "[]"},
		"each gap once":        {[]string{name(1, 7), name(2, 13), name(3, 13)}, []int{2, 3}, "[2: 000000010000000000000008-00000008 2: 000000020000000000000009-0000000C 3: 00000003000000000000000C-0000000C]"},
		"no history":           {[]string{name(1, 7), name(2, 11), name(3, 12)}, []int{3}, "[3: 000000010000000000000008-00000008 3: 000000020000000000000009-0000000A]"},
	} {
		t.Run(what, func(t *testing.T) {
			s := mem.New()
			archive(t, s, c.segments...)
			lines := []string{"1\t0/900000\tx\n", "2\t0/C00000\tx\n", "3\t0/E00000\tx\n"}
			for _, tli := range c.histories {
				var text string
				for _, l := range lines[:tli-1] {
					text += l
				}
				if _, err := push(t, s, fmt.Sprintf("%08X.history", tli), []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			if got := surveyed(t, s); got != c.want {
				t.Errorf("gaps %s, want %s", got, c.want)
			}
		})
	}
}

// The first segments' beginnings are damaged: the others tell how to number them, too.
func TestSurveyOfDamaged(t *testing.T) {
	for what, c := range map[string]struct {
		damaged, sound []string
		first          string
		gaps           string
	}{
		"only one":  {[]string{"000000010000000500000001"}, nil, "000000010000000500000001", "[]"},
		"the first": {[]string{"000000010000000500000001"}, []string{"000000010000000500000002", "000000010000000500000004"}, "000000010000000500000001", "[1: 000000010000000500000003-00000003]"},
		"two":       {[]string{"00000001000000040000003F", "000000010000000500000000"}, []string{"000000010000000500000001"}, "00000001000000040000003F", "[]"},
	} {
		t.Run(what, func(t *testing.T) {
			s := mem.New()
			for _, name := range c.sound {
				if _, err := push(t, s, name, wal(name, sysid, 64<<20, 7)); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range c.damaged {
				if err := s.Put(t.Context(), object.Key(sysid, name), strings.NewReader("nonsense"), 8); err != nil {
					t.Fatal(err)
				}
			}
			all, err := survey.Examine(t.Context(), s, sysid, 0)
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			if got := all[0].Name(all[0].Runs[0].First); got != c.first {
				t.Errorf("the first is %s, want %s", got, c.first)
			}
			if got := surveyed(t, s); got != c.gaps {
				t.Errorf("gaps %s, want %s", got, c.gaps)
			}
		})
	}
}

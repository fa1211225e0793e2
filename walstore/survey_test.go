package walstore

import (
	"fmt"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
)

// surveyed is what the archive lacks, as each timeline tells it.
func surveyed(t *testing.T, s storage.Store) string {
	t.Helper()
	all, err := Examine(t.Context(), s, sysid)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, v := range all {
		for _, h := range Holes(all, v) {
			told = append(told, fmt.Sprintf("%d: %s-%s", v.Timeline, h.First, h.Last[16:]))
		}
	}
	return fmt.Sprint(told)
}

// A timeline of which no segment is left is missing on the way to those that descend from it.
func TestHolesOfLostTimelines(t *testing.T) {
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
		"each hole once":       {[]string{name(1, 7), name(2, 13), name(3, 13)}, []int{2, 3}, "[2: 000000010000000000000008-00000008 2: 000000020000000000000009-0000000C 3: 00000003000000000000000C-0000000C]"},
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
				t.Errorf("holes %s, want %s", got, c.want)
			}
		})
	}
}

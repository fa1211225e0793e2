// Package show draws results for people and scripts: numbers, sizes, durations, columns, JSON, quoting, progress. It
// refuses to know commands.
package show

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
)

func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// PGVersion is a server_version_num as people say it: 15.4; 15 where the minor version is not known.
func PGVersion(n int) string {
	if n%10000 == 0 {
		return strconv.Itoa(n / 10000)
	}
	return fmt.Sprintf("%d.%d", n/10000, n%10000)
}

// Percent is how much n is of all.
func Percent(n, all int64) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(max(all, 1))) }

// Number is a number of things, whose plural ends in s.
func Number[T int | int64](n T, thing string) string {
	return fmt.Sprintf("%d %s", n, Plural(n, thing))
}

// Plural is the word for so many things, where the number itself is not told.
func Plural[T int | int64](n T, thing string) string {
	if n == 1 {
		return thing
	}
	return thing + "s"
}

// Size is a number of bytes in the unit that fits, as PostgreSQL's pg_size_pretty counts (1 kB = 1024).
func Size(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if unit == "B" || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

func NotNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

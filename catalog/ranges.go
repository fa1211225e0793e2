package catalog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Ranges is a set of part numbers, in JSON "1-45,47".
type Ranges []Range

// Range is the numbers from First to Last.
type Range struct{ First, Last int }

// Contains says whether n is in the set.
func (r Ranges) Contains(n int) bool {
	for _, x := range r {
		if x.First <= n && n <= x.Last {
			return true
		}
	}
	return false
}

// Add adds a number: where it follows the one that was added before it, that takes no memory.
func (r *Ranges) Add(n int) {
	if k := len(*r) - 1; k >= 0 && (n == (*r)[k].Last || n == (*r)[k].Last+1) {
		(*r)[k].Last = n
		return
	}
	*r = append(*r, Range{n, n})
}

// NewRanges is the set of the given numbers.
func NewRanges(numbers []int) Ranges {
	var out Ranges
	for _, n := range slices.Sorted(slices.Values(numbers)) {
		out.Add(n)
	}
	return out
}

func (r Ranges) MarshalText() ([]byte, error) {
	var out []byte
	for i, x := range r {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, int64(x.First), 10)
		if x.Last != x.First {
			out = strconv.AppendInt(append(out, '-'), int64(x.Last), 10)
		}
	}
	return out, nil
}

func (r *Ranges) UnmarshalText(b []byte) error {
	*r = nil
	if len(b) == 0 {
		return nil // the empty set, as MarshalText writes it
	}
	for s := range strings.SplitSeq(string(b), ",") {
		first, last, isRange := strings.Cut(s, "-")
		if !isRange {
			last = first
		}
		f, err1 := strconv.Atoi(first)
		l, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || f < 0 || l < f {
			return fmt.Errorf("%q is not a set of numbers, such as 1-45,47", b)
		}
		*r = append(*r, Range{f, l})
	}
	return nil
}

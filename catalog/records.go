package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
)

// Logged is a record of the log, for those who want to read what happened.
type Logged struct {
	N       int64
	Record  Record
	Stored  json.RawMessage // as it is stored; nil when it is missing or no JSON
	Problem string          // why the record is not sound, or not understood; the other members are what can be had
}

// blockSize is how many records are read at the same time.
const blockSize = 64

// Records yields the records oldest..newest, which State.N says there are, in blocks from the newest one back: a log may
// have tens of thousands. Within a block they are in the order of the log. One that is damaged, missing or newer than this
// pgobj is there all the same, with its problem; where many are missing, the first of these stands for all.
func (c *Catalog) Records(ctx context.Context, oldest, newest int64) iter.Seq2[[]Logged, error] {
	return func(yield func([]Logged, error) bool) {
		_, gaps, err := c.find(ctx, oldest-1)
		for to := newest; to >= oldest && err == nil; {
			from, block, near := max(oldest, to-blockSize+1), []Logged(nil), gap{}
			if i := lastIndex(gaps, func(h gap) bool { return h.after < to }); i >= 0 {
				near = gaps[i]
			}
			if to < near.before {
				from = near.after + 1
				block = []Logged{{N: from, Problem: fmt.Sprintf("it is missing, and so are all up to %d", to)}}
			} else {
				from = max(from, near.before)
				block, err = c.block(ctx, from, to)
			}
			if err == nil && !yield(block, nil) {
				return
			}
			to = from - 1
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// block returns the records from..to.
func (c *Catalog) block(ctx context.Context, from, to int64) ([]Logged, error) {
	before := max(1, from-1) // the first one has to follow it
	data, err := c.read(ctx, before, to)
	if err != nil {
		return nil, err
	}
	var out []Logged
	for i, d := range data {
		l := logged(before+int64(i), d)
		if i > 0 && l.Problem == "" && data[i-1] != nil && l.Record.Prev != sum(data[i-1]) {
			l.Problem = "it does not follow the record before it"
		}
		out = append(out, l)
	}
	return out[from-before:], nil
}

func logged(n int64, data []byte) Logged {
	l := Logged{N: n}
	if data == nil {
		l.Problem = "it is missing"
		return l
	}
	if json.Valid(data) {
		l.Stored = data
	}
	var err error
	if l.Record, err = parse(data); err != nil {
		l.Problem = err.Error()
		_ = json.Unmarshal(data, &l.Record) // what can be had, for people
	} else if l.Record.N != n {
		l.Problem = "it does not follow the record before it"
	}
	return l
}

package catalog

import (
	"context"
	"encoding/json"
)

// Logged is a record of the log, for those who want to read what happened.
type Logged struct {
	N       int64
	Record  Record
	Stored  json.RawMessage // as it is stored; nil when it is missing or no JSON
	Problem string          // why the record is not sound, or not understood; the other members are what can be had
}

// Records returns the records from..to, which State.N says there are. One that is damaged, missing or newer than
// this pgobj is there all the same, with its problem.
func (c *Catalog) Records(ctx context.Context, from, to int64) ([]Logged, error) {
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

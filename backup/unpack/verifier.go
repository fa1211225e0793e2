package unpack

import (
	"fmt"

	"github.com/pgobj/pgobj/backup/part"
)

// verifier checks each chunk by its hash, where nothing is written: two at a time, because two hashes side by side
// take the time of one. Each worker has its own.
type verifier struct {
	*unpacker
	first want   // its chunk waits for a second one, when there is a file
	data  []byte // what that chunk holds
}

// take takes the content of one extent, and checks the chunk when that was the last.
func (v *verifier) take(w want, data []byte) error {
	v.progress.Bytes.Add(int64(len(data)))
	whole := w.chunk.add(w, data)
	if err := v.done(w.file); err != nil || whole == nil || w.chunk.sum == (part.Hash{}) {
		return err
	}
	if v.first.file == nil {
		v.first, v.data = w, append(v.data[:0], whole...)
		return nil
	}
	return v.check(w, whole)
}

// rest checks the chunk that waits, if there is one.
func (v *verifier) rest() error {
	if v.first.file == nil {
		return nil
	}
	return v.check(v.first, v.data)
}

func (v *verifier) check(w want, data []byte) error {
	a := v.first
	v.first = want{}
	x, y := part.Sum2(v.data, data)
	if err := a.chunk.checkSum(x); err != nil {
		return fmt.Errorf("verify %q: %w", a.file.path, err)
	}
	if err := w.chunk.checkSum(y); err != nil {
		return fmt.Errorf("verify %q: %w", w.file.path, err)
	}
	return nil
}

// add takes the content of one extent, and gives that of the chunk when it was the last.
func (c *assembly) add(w want, data []byte) []byte {
	if len(data) == c.len {
		return data // it is the last at once
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.data == nil {
		c.data = make([]byte, c.len)
	}
	copy(c.data[w.At-c.at:], data)
	if c.left.Add(-1) > 0 {
		return nil
	}
	whole := c.data
	c.data = nil
	return whole
}

package walstore

import (
	"io"
)

// Beginning is how much of a segment MarksRequest.Begin is told: records are rarely longer that end in it.
const Beginning = 64 << 10

// Through lets look read what fill writes, to its end, so that all of it is checked.
func Through(fill func(io.Writer) error, look func(io.Reader) error) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(fill(w)) }() // ends with the pipe, which is closed below
	defer r.Close()
	if err := look(r); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

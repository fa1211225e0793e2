package walstore

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
)

// Beginning is how much of a segment Source.Read tells at once: records are rarely longer that end in it.
const Beginning = 64 << 10

// Source is an archived segment, or the pieces of one that Chain has put together.
type Source struct {
	SystemID uint64
	Segment  string
	Chain    []object.Piece
}

// Read calls look once with the content, and with how that begins, as far as it can be read. What look leaves is read too, so that all
// of it is checked: with an error nothing counts that look saw.
func (x Source) Read(ctx context.Context, s storage.Store, look func(begin []byte, content io.Reader) error) error {
	name := x.Segment
	fill := func(w io.Writer) error {
		_, err := Read(ctx, s, name, x.SystemID, w)
		return err
	}
	if x.Chain != nil {
		name, fill = x.Chain[0].Segment, func(w io.Writer) error { return partial.ReadChain(ctx, s, x.SystemID, x.Chain, w) }
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(fill(w)) }() // ends with the pipe, which is closed below
	defer r.Close()
	in := bufio.NewReaderSize(r, 2*Beginning)
	begin, _ := in.Peek(Beginning) // an error comes again
	err := look(bytes.Clone(begin), in)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

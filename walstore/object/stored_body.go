package object

import (
	"bytes"
	"io"
	"os"
	"slices"
)

// keepInMemory is how much of an object is held in memory where there is a directory for the rest: enough for a segment
// of 16 MB, which never needs that.
const keepInMemory = 32 << 20

// Body is what Push stores: in memory, and from keepInMemory on in a file without a name. A full disk is when archiving
// matters most, so what the file does not take stays in memory.
type Body struct {
	frames []frame // in order
	Size   int64
	Dir    string   // for the file; "": all stays in memory
	file   *os.File // nil until it is needed
	filed  int64
}

type frame struct {
	end  int64  // in the object
	data []byte // nil when it is in the file, at
	at   int64
}

// Add copies data to the object's end.
func (o *Body) Add(data []byte) {
	o.Size += int64(len(data))
	if o.Size > keepInMemory && o.Dir != "" {
		if err := o.spill(data); err == nil {
			o.frames = append(o.frames, frame{end: o.Size, at: o.filed})
			o.filed += int64(len(data))
			return
		}
		o.Dir = ""
	}
	o.frames = append(o.frames, frame{end: o.Size, data: bytes.Clone(data)})
}

func (o *Body) spill(data []byte) (err error) {
	if o.file == nil {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return err
		}
		if o.file, err = os.CreateTemp(o.Dir, ".new-*"); err != nil { // a name that the spool sweeps
			return err
		}
		if err := os.Remove(o.file.Name()); err != nil {
			return err
		}
	}
	_, err = o.file.WriteAt(data, o.filed)
	return err
}

// ReadAt implements io.ReaderAt.
func (o *Body) ReadAt(p []byte, off int64) (n int, err error) {
	i, _ := slices.BinarySearchFunc(o.frames, off, func(f frame, off int64) int {
		if f.end <= off {
			return -1
		}
		return 1
	})
	for ; n < len(p) && i < len(o.frames); i++ {
		f := o.frames[i]
		left := f.end - off - int64(n)
		want := p[n:min(len(p), n+int(left))]
		if f.data != nil {
			n += copy(want, f.data[int64(len(f.data))-left:])
			continue
		}
		size := f.end
		if i > 0 {
			size -= o.frames[i-1].end
		}
		m, err := o.file.ReadAt(want, f.at+size-left)
		n += m
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close gives the file's room back.
func (o *Body) Close() {
	if o.file != nil {
		o.file.Close()
	}
}

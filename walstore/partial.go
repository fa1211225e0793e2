package walstore

import (
	"bytes"
	"io"
)

func (u *limitWriter) Write(p []byte) (int, error) {
	pass := p[:min(u.n, int64(len(p)))]
	u.n -= int64(len(pass))
	if n, err := u.w.Write(pass); err != nil {
		return n, err
	}
	return len(p), nil
}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (l *prefixComparer) Write(p []byte) (int, error) {
	if l.same {
		own := make([]byte, len(p))
		_, err := io.ReadFull(l.f, own)
		l.same = err == nil && bytes.Equal(own, p)
	}
	return len(p), nil
}

func (l *prefixComparer) close() {
	if l.f != nil {
		l.f.Close()
	}
}

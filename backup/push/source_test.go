package push

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/pack"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// busySite is a site on which something happens at the walk's every step, between it and the reading.
type busySite struct {
	*site
	begun bool
}

func (s *busySite) Start(ctx context.Context, l string, f bool) (server.StartPoint, error) {
	s.begun = true
	return s.site.Start(ctx, l, f)
}

func (s *busySite) Stop(ctx context.Context) (server.StopPoint, error) {
	s.begun = false
	return s.site.Stop(ctx)
}

func (s *busySite) during(do func()) func(*Request) {
	return func(r *Request) {
		r.Session = s
		r.Now = func() time.Time {
			if s.begun {
				do()
			}
			return s.now()
		}
	}
}

// A file that replay does not repair is stored as it is under its name when it is read, not cut to the size that the
// walk saw, nor filled up to it.
func TestReplacedFileIsWhole(t *testing.T) {
	for name, content := range map[string][]byte{
		"longer": []byte("a = '1'\nshared_buffers = '1GB'\nwork_mem = '64MB'\n"), "shorter": []byte("a = '1'\n"), "empty": {},
		"much longer": random(1, 3*part.ChunkSize+5), "none": nil,
	} {
		for before, first := range map[string][]byte{"small": []byte("a = '1'\nwork_mem = '64MB'\n"), "large": random(2, 2*part.ChunkSize+1)} {
			t.Run(name+" than a "+before+" one", func(t *testing.T) {
				x := newMemSite(t)
				x.write("pg_hba.conf", first)
				conf := filepath.Join(x.pgdata, "pg_hba.conf")
				s := &busySite{site: x}
				b := x.mustPush(s.during(func() { // as editors do, and ALTER SYSTEM
					if content == nil {
						os.Remove(conf)
						return
					}
					x.write("../new", content)
					if err := os.Rename(filepath.Join(x.pgdata, "../new"), conf); err != nil {
						t.Error(err)
					}
				}))
				dir := x.fetch(b.ID)
				got, err := os.ReadFile(filepath.Join(dir, "pg_hba.conf"))
				if content == nil && err == nil || content != nil && (err != nil || !bytes.Equal(got, content)) {
					t.Errorf("%d bytes came back, %v; want %d", len(got), err, len(content))
				}
			})
		}
	}
}

// A file that was written the moment before is read again: whoever writes it may not be at its end.
func TestFileInFluxIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "conf")
	write := func(text string) time.Time {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.ModTime()
	}
	at := write("half of")
	looks := 0
	p := &pack.Packer{Config: pack.Config{Now: func() time.Time {
		if looks++; looks == 1 {
			write("half of it, and the rest")
			return at
		}
		return at.Add(time.Hour)
	}}}
	src, err := p.ReadStable(datadir.Entry{Path: "conf", Source: path})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, src.Entry.Size)
	if _, err := src.Read(got, 0); err != nil || string(got) != "half of it, and the rest" || looks != 2 {
		t.Errorf("%q after %d looks, %v", got, looks, err)
	}
}

// summarySite is a server whose WAL summaries tell that nothing has changed but the lengths of files.
type summarySite struct{ *busySite }

func (s summarySite) Info(ctx context.Context) (server.Info, error) {
	i, err := s.site.Info(ctx)
	i.SummarizeWAL = true
	return i, err
}

func (s summarySite) Changes(context.Context, timeline.Path) (*datadir.Changes, error) {
	return &datadir.Changes{}, nil
}

// A large file that has grown is dropped between the walk and its reading. Its first line could be taken from the
// previous backup, and the last could not: neither may be there.
func TestDroppedFileHasNoFirstHalf(t *testing.T) {
	for range 3 { // when it was there, it was not each time
		x := newMemSite(t)
		rel := filepath.Join(x.pgdata, "base/5/16384")
		x.write("base/5/16384", random(1, page))
		if err := os.Truncate(rel, 257<<20); err != nil {
			t.Fatal(err)
		}
		x.mustPush(nil)
		if err := os.Truncate(rel, 257<<20+page); err != nil {
			t.Fatal(err)
		}
		s := &busySite{site: x}
		b := x.mustPush(func(r *Request) {
			walked := 0
			s.during(func() {
				if walked++; walked == 4 { // PG_VERSION, base, base/5, and this one
					os.Remove(rel)
				}
			})(r)
			r.Session = summarySite{s}
		})
		if _, err := os.Stat(rel); err == nil {
			t.Fatal("the file was not dropped: this shows nothing")
		}
		if st, err := os.Stat(filepath.Join(x.fetch(b.ID), "base/5/16384")); err == nil {
			t.Errorf("it was restored with %d bytes", st.Size())
		}
	}
}

package backup

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/backup/part"
)

// busySite is a site on which something happens at the walk's every step, between it and the reading.
type busySite struct {
	*site
	begun bool
}

func (s *busySite) Start(ctx context.Context, l string, f bool) (cluster.StartPoint, error) {
	s.begun = true
	return s.site.Start(ctx, l, f)
}

func (s *busySite) Stop(ctx context.Context) (cluster.StopPoint, error) {
	s.begun = false
	return s.site.Stop(ctx)
}

func (s *busySite) during(do func()) func(*PushRequest) {
	return func(r *PushRequest) {
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
	p := &packer{packerConfig: packerConfig{now: func() time.Time {
		if looks++; looks == 1 {
			write("half of it, and the rest")
			return at
		}
		return at.Add(time.Hour)
	}}}
	src, err := p.still(cluster.Entry{Path: "conf", Source: path})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, src.entry.Size)
	if _, err := src.read(got, 0); err != nil || string(got) != "half of it, and the rest" || looks != 2 {
		t.Errorf("%q after %d looks, %v", got, looks, err)
	}
}

package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/catalog"
)

// Tablespaces come and go while a backup begins and runs: each that a restore will meet is listed.
func TestTablespacesAreListed(t *testing.T) {
	p := &push{Request: Request{PGDATA: "/data", Log: slog.New(slog.DiscardHandler)}, seenTablespaces: map[uint32]datadir.Entry{}}
	p.info.Tablespaces = []catalog.Tablespace{
		{OID: 1, Name: "stays", Location: "/stays"}, {OID: 2, Name: "gone before the start", Location: "/gone"}, {OID: 3, Name: "gone after the start", Location: "/odd\n\\r"},
		{OID: 4, Name: "gone after the walk", Location: "/walked"}, {OID: 5, Name: "old name", Location: "/renamed"}, {OID: 6, Name: "again", Location: "/six"}, {OID: 7, Name: "in place"},
	}
	p.stop.Tablespaces = []catalog.Tablespace{
		{OID: 1, Name: "stays", Location: "/stays"}, {OID: 5, Name: "new name", Location: "/renamed"}, {OID: 7, Name: "in place"}, {OID: 8, Name: "again", Location: "/eight"},
		{OID: 9, Name: "new", Location: "/new"}, {OID: 12, Name: "moved by hand"},
	}
	p.stop.TablespaceMap = []byte("1 /stays\n3 /odd\\\n\\\\r\n4 /walked\n5 /renamed\n6 /six\n9 /new\n10 /came and went\n")
	for oid, link := range map[int]string{1: "/stays", 4: "/walked", 5: "/renamed", 6: "/six", 9: "/new", 11: "/left over", 12: "../by/hand"} {
		p.noteTablespace(datadir.Entry{Path: fmt.Sprintf("pg_tblspc/%d", oid), Type: datadir.TypeTablespace, Link: link})
	}
	if err := p.listTablespaces(); err != nil {
		t.Fatal(err)
	}
	want := []catalog.Tablespace{
		{OID: 1, Name: "stays", Location: "/stays"}, {OID: 3, Name: "gone after the start", Location: "/odd\n\\r"}, {OID: 4, Name: "gone after the walk", Location: "/walked"},
		{OID: 5, Name: "new name", Location: "/renamed"}, {OID: 6, Name: "6", Location: "/six"}, {OID: 7, Name: "in place"}, {OID: 8, Name: "again", Location: "/eight"},
		{OID: 9, Name: "new", Location: "/new"}, {OID: 10, Name: "10", Location: "/came and went"}, {OID: 11, Name: "11", Location: "/left over"},
		{OID: 12, Name: "moved by hand", Location: "/data/by/hand"},
	}
	if !slices.Equal(p.backup.Tablespaces, want) {
		t.Errorf("got  %+v\nwant %+v", p.backup.Tablespaces, want)
	}
	if got := strings.Join(p.backup.Warnings, "\n"); strings.Count(got, "was created") != len([]int{8, 9}) || !strings.Contains(got, "tablespace new was created") {
		t.Errorf("warnings: %s", got)
	}
}

// spaceSite is a site whose server knows tablespaces in the end.
type spaceSite struct {
	*site
	spaces []catalog.Tablespace
}

func (s spaceSite) Stop(ctx context.Context) (server.StopPoint, error) {
	stop, err := s.site.Stop(ctx)
	stop.Tablespaces = s.spaces
	return stop, err
}

// The walk does not see the data of a tablespace. When it was dropped, that is as it should be.
func TestUnseenTablespace(t *testing.T) {
	x := newMemSite(t)
	place := t.TempDir()
	for name, at := range map[string]string{"16400": place, "16401": filepath.Join(place, "none")} {
		if err := os.Symlink(at, filepath.Join(x.pgdata, "pg_tblspc", name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, lost := range []catalog.Tablespace{{OID: 16400, Name: "one", Location: place}, {OID: 16401, Name: "two", Location: filepath.Join(place, "none")}} {
		_, err := x.push(func(r *Request) { r.Session = spaceSite{x, []catalog.Tablespace{lost}} })
		if !errors.Is(err, backup.ErrUnseen) || !strings.Contains(err.Error(), "tablespace "+lost.Name+", at "+lost.Location) {
			t.Errorf("a backup without %s: %v", lost.Name, err)
		}
	}
	b := x.mustPush(nil)
	if len(b.Warnings) != 2 || len(b.Tablespaces) != 2 {
		t.Errorf("%+v, warnings: %q", b.Tablespaces, b.Warnings)
	}
}

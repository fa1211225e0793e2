package wal

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// stranger is a user who is neither root nor the server's.
const stranger = 12345

// What another user has put into the spool, or could have, is never handed to PostgreSQL (row 115): the server gets what the
// archive has, each time with the reason in its log, or without when only one file is not believed.
func TestPlantedWAL(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	var names []string
	contents := map[string][]byte{}
	for i := range 6 {
		names = append(names, numbered(i))
		contents[names[i]] = site.WalSegment(names[i], r.Sysid, site.Mib, byte(i+1))
		r.MustPush(t, names[i], contents[names[i]])
	}
	r.Env = append(r.Env, "PGOBJ_WAL_PREFETCH=3MB")
	r.Recovery(t)
	planted := site.WalSegment(names[1], r.Sysid, site.Mib, 99)
	// plant replaces the file of the second segment by another one that is right in all but its content.
	plant := func() (file, window string) {
		t.Helper()
		r.FetchesAhead(t, names[0], contents[names[0]])
		have := r.Window(t, 3)[names[1]]
		site.Must(t, os.Remove(have))
		window = filepath.Dir(have)
		file = filepath.Join(window, fmt.Sprintf("%s.%016x", names[1], xxhash.Sum64(planted)))
		site.WriteFile(t, file, string(planted), 0o600)
		return file, window
	}
	chown := func(path string) { site.Must(t, os.Lchown(path, stranger, stranger)) }
	plant()
	if o, got := r.Fetch(t, names[1]); o.Code != 0 || !bytes.Equal(got, planted) {
		t.Fatalf("what the server's own user has put there is handed over (else this test proves nothing): %v", o)
	}
	for what, change := range map[string]func(file, window string){
		"another user's file":          func(file, _ string) { chown(file) },
		"a file that others may write": func(file, _ string) { site.Must(t, os.Chmod(file, 0o602)) },
		"a file that the group may write": func(file, _ string) {
			site.Must(t, os.Chmod(file, 0o620))
		},
		"a link": func(file, _ string) {
			away := filepath.Join(testenv.Dir(t), "planted")
			site.WriteFile(t, away, string(planted), 0o600)
			site.Must(t, os.Remove(file))
			site.Must(t, os.Symlink(away, file))
			chown(file)
		},
		"another user's window":          func(_, window string) { chown(window) },
		"a window that others may write": func(_, window string) { site.Must(t, os.Chmod(window, 0o703)) },
		"another user's spool":           func(string, string) { chown(r.SpoolDir()) },
		"a spool that others may write":  func(string, string) { site.Must(t, os.Chmod(r.SpoolDir(), 0o777)) },
	} {
		file, window := plant()
		change(file, window)
		o, got := r.Fetch(t, names[1])
		if o.Code != 0 || !bytes.Equal(got, contents[names[1]]) {
			t.Errorf("%s: %d bytes, the right ones: %v: %v", what, len(got), bytes.Equal(got, contents[names[1]]), o)
		}
		if strings.Contains(what, "spool") && !strings.Contains(o.Err, r.SpoolDir()) {
			t.Errorf("%s: the log does not say that the spool is not used: %v", what, o)
		}
		site.Must(t, testenv.ChownPostgres(r.SpoolDir()))
		site.Must(t, os.Chmod(r.SpoolDir(), 0o700))
		if _, err := os.Stat(window); err == nil {
			site.Must(t, testenv.ChownPostgres(window))
			site.Must(t, os.Chmod(window, 0o700))
		}
		_ = os.Remove(file) // it may be gone
		r.FetchesAhead(t, names[0], contents[names[0]])
	}

	// A spool that is reached by another user's link.
	elsewhere := filepath.Join(testenv.Dir(t), "link")
	site.Must(t, os.Symlink(r.SpoolDir(), elsewhere))
	chown(elsewhere)
	r.Env = append(r.Env, "PGOBJ_WAL_SPOOL="+elsewhere)
	if o, got := r.Fetch(t, names[1]); o.Code != 0 || !bytes.Equal(got, contents[names[1]]) || !strings.Contains(o.Err, elsewhere) {
		t.Errorf("another user's link: %v", o)
	}
}

// A planted marker never makes wal-push say that a file is archived; root, who does the server's work by hand, leaves nothing
// in the spool that the server could not read.
func TestPlantedMarkers(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	r.Wait(t, numbered(0), numbered(1), numbered(2))
	r.Serves(t)
	r.Asks(t, numbered(0))
	r.Settled(t)
	found, err := filepath.Glob(filepath.Join(r.SpoolDir(), "pushed-*-"+numbered(1)))
	if err != nil || len(found) != 1 || !r.MarkerHolds(t, numbered(1)) {
		t.Fatalf("no good marker to begin with: %v, %v", found, err)
	}
	for what, change := range map[string]func(){
		"another user's":           func() { site.Must(t, os.Chown(found[0], stranger, stranger)) },
		"others may write":         func() { site.Must(t, os.Chmod(found[0], 0o602)) },
		"the spool is another's":   func() { site.Must(t, os.Chown(r.SpoolDir(), stranger, stranger)) },
		"others may write to both": func() { site.Must(t, os.Chmod(r.SpoolDir(), 0o722)) },
	} {
		change()
		if r.MarkerHolds(t, numbered(1)) {
			t.Errorf("%s: the marker was believed", what)
		}
		site.Must(t, testenv.ChownPostgres(r.SpoolDir()))
		site.Must(t, os.Chmod(r.SpoolDir(), 0o700))
		site.Must(t, testenv.ChownPostgres(found[0]))
		site.Must(t, os.Chmod(found[0], 0o600))
		if !r.MarkerHolds(t, numbered(1)) {
			t.Fatalf("%s: the marker cannot be mended", what)
		}
	}

	if os.Geteuid() != 0 {
		t.Skip("only root can do the server's work for it")
	}
	site.Must(t, os.RemoveAll(filepath.Dir(r.SpoolDir())))
	for _, args := range [][]string{{"wal-push", "pg_wal/" + numbered(2)}, {"wal-push", "--all", "."}, {"wal-fetch", numbered(1), "pg_wal/by-root"}} {
		cmd := exec.Command(r.Pgobj, args...)
		cmd.Dir, cmd.Env = r.Data, slices.Concat([]string{"PATH=" + os.Getenv("PATH")}, r.Env)
		if o := site.Execute(t, cmd, nil); o.Code != 0 {
			t.Errorf("root's %s: %v", strings.Join(args, " "), o)
		}
	}
	if _, err := os.Stat(filepath.Dir(r.SpoolDir())); err == nil {
		t.Error("root has made a spool that the server cannot use")
	}
	if !r.Asks(t, numbered(2)) {
		t.Error("nothing is pushed ahead after root's work")
	}
}

package postmaster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// TestReadOfAServer: what real servers write is understood.
func TestReadOfAServer(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		c := pgtest.Start(t, pgtest.Options{Major: major, Template: true, TCP: true})
		f := Read(c.Data)
		if f.PID != c.PID() || f.Started == "" || f.SocketDir != c.SocketDir || f.Host() != c.SocketDir || f.Listen != "127.0.0.1" || f.Status != Ready || !f.Status.Open() {
			t.Errorf("version %d: %+v", major, f)
		}
		c.Stop(t, "fast")
		if f := Read(c.Data); f != (File{}) {
			t.Errorf("version %d, stopped: %+v", major, f)
		}
	}
}

// TestReadOfRest: what a server has not written yet is empty, and what is no such file says nothing.
func TestReadOfRest(t *testing.T) {
	for text, want := range map[string]File{
		"": {}, "12": {PID: 12}, "-3\n/data\n1700000000\n5432\n\n*\n": {PID: -3, Started: "1700000000", Port: "5432", Listen: "*"}, "x\n\x00": {},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Read(dir); got != want {
			t.Errorf("of %q: %+v, want %+v", text, got, want)
		}
	}
	if got := (File{Listen: "*"}).Host(); got != "127.0.0.1" {
		t.Errorf("a server without a socket is at %q", got)
	}
}

package datadir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// TestPostmasterOfAServer: what real servers write is understood.
func TestPostmasterOfAServer(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		c := pgtest.Start(t, pgtest.Options{Major: major, Template: true, TCP: true})
		p, err := ReadPostmaster(c.Data)
		if err != nil || p.PID != c.PID() || p.Started == "" || p.SocketDir != c.SocketDir || p.Host() != c.SocketDir || p.Listen != "127.0.0.1" || p.Status != Ready || !p.Status.Open() {
			t.Errorf("version %d: %+v, %v", major, p, err)
		}
		c.Stop(t, "fast")
		if p, err := ReadPostmaster(c.Data); err != nil || p != (Postmaster{}) {
			t.Errorf("version %d, stopped: %+v, %v", major, p, err)
		}
	}
}

// TestPostmasterOfRest: what a server has not written yet is empty, and what is no such file is an error.
func TestPostmasterOfRest(t *testing.T) {
	for text, want := range map[string]Postmaster{
		"": {}, "12": {PID: 12}, "-3\n/data\n1700000000\n5432\n\n*\n": {PID: -3, Started: "1700000000", Port: "5432", Listen: "*"}, "x\n\x00": {},
		"7\n/data\n1700000000\n5432\n/run\n*\n 5432001  4 \nready   \n": {PID: 7, Started: "1700000000", Port: "5432", SocketDir: "/run", Listen: "*", Memory: "5432001  4", Status: Ready},
	} {
		if got, err := ReadPostmaster(withPostmaster(t, text)); got != want || (err != nil) != (want.PID == 0) {
			t.Errorf("of %q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	if got := (Postmaster{Listen: "*"}).Host(); got != "127.0.0.1" {
		t.Errorf("a server without a socket is at %q", got)
	}
}

// withPostmaster is a data directory that has only a postmaster.pid.
func withPostmaster(t *testing.T, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

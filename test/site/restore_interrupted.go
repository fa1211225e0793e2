package site

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// Bulky adds to a rig's data directory what makes a backup of some parts: bytes that cannot be compressed.
func (r *FaultRig) Bulky(t *testing.T, megabytes int) {
	t.Helper()
	dir := filepath.Join(r.Cluster.Data, "bulk")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	rnd := rand.NewChaCha8([32]byte{byte(megabytes)})
	for i := range megabytes {
		PutFile(t, filepath.Join(dir, fmt.Sprintf("%03d", i)), RandomBytes(rnd, 1<<20))
	}
	if err := testenv.ChownPostgres(dir); err != nil {
		t.Fatal(err)
	}
}

// Stale makes a copy of a restored directory in which every file has other bytes, but for those that PostgreSQL and
// pgobj know a data directory by.
func (r *FaultRig) Stale(t *testing.T, from, to string) {
	t.Helper()
	if o := Execute(t, r.Program(nil, "cp", "-a", from, to), nil); o.Code != 0 {
		t.Fatal(o)
	}
	script := `find "$0" -type f -size +0 ! -name PG_VERSION ! -name pg_control -exec sh -c 'for f; do printf "stale" | dd of="$f" conv=notrunc status=none; done' sh {} +`
	if o := Execute(t, r.Program(nil, "sh", "-c", script, to), nil); o.Code != 0 {
		t.Fatal(o)
	}
}

package hostile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// forgeWAL is an object of the archive whose own length and hash hold, as FORMAT.md describes it.
func forgeWAL(t *testing.T, content []byte, length int) []byte {
	t.Helper()
	sum := sha256.Sum256(content)
	out := binary.LittleEndian.AppendUint32(site.Compress(t, content), 0x184D2A5E)
	out = binary.LittleEndian.AppendUint32(out, 56)
	out = append(out, "PGOBJWAL\x01\x00\x00\x00\x00\x00\x00\x00"...)
	out = binary.LittleEndian.AppendUint64(out, uint64(length))
	return append(out, sum[:]...)
}

// TestHostileWAL: what somebody who can write to the repository has put in a segment's place, with hashes that hold, is
// never handed to PostgreSQL when it cannot be that segment, takes no room, and backup-verify names it.
func TestHostileWAL(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	id := rig.Push(t)
	keys := rig.WalOf(t, rig.Repo, id)
	key := keys[len(keys)-1]
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	stored := site.ReadFile(t, filepath.Join(rig.Repo, key))
	segment, err := dec.DecodeAll(stored, nil)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(at int, do func(b []byte)) []byte {
		b := bytes.Clone(segment)
		do(b[at:])
		return forgeWAL(t, b, len(b))
	}
	forged := map[string][]byte{
		"of another cluster":       edit(24, func(b []byte) { b[0]++ }),
		"of another place":         edit(8, func(b []byte) { b[2]++ }),
		"of another timeline":      edit(4, func(b []byte) { b[0]++ }),
		"of another segment size":  edit(32, func(b []byte) { binary.LittleEndian.PutUint32(b, 16<<20) }),
		"of no size":               edit(32, func(b []byte) { clear(b[:4]) }),
		"of a huge size":           edit(32, func(b []byte) { binary.LittleEndian.PutUint32(b, 1<<31) }),
		"without a header":         edit(0, func(b []byte) { clear(b[:40]) }),
		"cut":                      forgeWAL(t, segment[:len(segment)/2], len(segment)/2),
		"that lies of its length":  forgeWAL(t, segment, len(segment)+1),
		"of a negative length":     forgeWAL(t, segment, -1),
		"that goes on":             forgeWAL(t, append(bytes.Clone(segment), make([]byte, 8192)...), len(segment)+8192),
		"that expands without end": forgeWAL(t, append(bytes.Clone(segment), make([]byte, 256<<20)...), len(segment)+256<<20),
		"of nothing":               forgeWAL(t, nil, 0),
		"of a page":                forgeWAL(t, segment[:8192], 8192),
		"of zeros":                 forgeWAL(t, make([]byte, len(segment)), len(segment)),
		"that is its trailer":      stored[len(stored)-64:],
		"of another format":        edit(0, func([]byte) {}),
		"with bytes after it":      append(bytes.Clone(stored), "evil"...),
	}
	forged["of another format"][len(forged["of another format"])-48] = 2
	name := strings.TrimSuffix(filepath.Base(key), ".zst")
	for what, body := range forged {
		t.Run(what, func(t *testing.T) {
			repo, dest := site.CopyRepo(t, rig.Repo), filepath.Join(testenv.Dir(t), name)
			site.Replace(t, filepath.Join(repo, key), body)
			limited := func(args ...string) site.Outcome {
				cmd := rig.Program(site.FromDirectory(repo), "sh", append([]string{"-c", fmt.Sprintf(`ulimit -d %d; exec "$0" "$@"`, site.MemoryLimit>>10), rig.Pgobj}, args...)...)
				cmd.Dir = rig.Cluster.Data
				return site.Execute(t, cmd, nil)
			}
			if o := limited("wal-fetch", name, dest, "--retry-for=2s"); o.Code != 255 || !strings.Contains(o.Err, name) || strings.Contains(o.Err, "goroutine ") {
				t.Errorf("wal-fetch: %v", o)
			}
			if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) > 0 {
				t.Errorf("wal-fetch has left %v", left)
			}
			for _, args := range [][]string{{"backup-verify", id}, {"wal-verify"}} {
				if o := limited(args...); o.Code != site.ExitDamaged || !strings.Contains(o.Err+o.Out, name) || strings.Contains(o.Err, "goroutine ") {
					t.Errorf("%v: %v", args, o)
				}
			}
		})
	}
}

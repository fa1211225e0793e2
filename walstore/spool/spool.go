// Package spool owns pgobj's directory on the PostgreSQL host: markers of files that are archived already, the list of those
// that a process is archiving, and windows of WAL fetched ahead of a recovery. It refuses to know the storage. Nothing in
// the directory is needed: what is missing, torn, old or another's is as if it were not there, and costs one request to the
// storage.
//
// The directory lies outside of pg_wal, so that PostgreSQL never meets it. By default it is Directory in the data directory:
// PostgreSQL's own base backups and pgobj's leave out every name that begins with pgsql_tmp (PG_TEMP_FILE_PREFIX,
// basebackup.c). pg_rewind does so only below a directory, and takes away what its target has of that (filemap.c); hence the
// second one. It sees only files and directories: anything else that there is, a FIFO say, it leaves, and then it cannot remove
// the directory and fails, with a target that is half rewound. A copy made by other means copies the directory too; so a marker is
// bound to what no copy can keep, the inode and the time of change (ctime) of the very file, and a window to one run of one
// server.
package spool

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pgobj/pgobj/storage/owned"
)

// Directory is where the directory is in the data directory.
const Directory = "pgsql_tmp_pgobj/pgsql_tmp"

// Scope says whose files these are: a digest of all that has to be the same for them to mean anything.
func Scope(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// Identity is what tells a file from every other one, and from itself after a change.
type Identity struct {
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Mtime   int64  `json:"mtime_ns"`
	Ctime   int64  `json:"ctime_ns"` // the kernel's own: neither a copy nor touch can set it
	OwnerID uint32 `json:"uid"`
}

// IdentityOf reads it from what os.Stat or File.Stat returned; false where the system does not tell.
func IdentityOf(info os.FileInfo) (Identity, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Identity{}, false
	}
	return Identity{Device: uint64(st.Dev), Inode: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), OwnerID: st.Uid}, true
}

// makeDir makes a directory of the spool, and those above it, unless it is there; nobody else may write to it.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return owned.Dir(dir)
}

// readOwned reads a small file that another process of ours has written.
func readOwned(path string) ([]byte, error) {
	f, err := owned.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// seal writes a value so that unseal tells whether all of it is there.
func seal(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return replace(path, fmt.Appendf(data, "\n%x\n", sha256.Sum256(data)))
}

// unseal reads what seal has written; false when it is not there, torn, or not safe to believe.
func unseal(path string, value any) bool {
	data, err := readOwned(path)
	if err != nil {
		return false
	}
	body, sum, ok := strings.Cut(string(data), "\n")
	if own := sha256.Sum256([]byte(body)); !ok || sum != hex.EncodeToString(own[:])+"\n" {
		return false
	}
	return json.Unmarshal([]byte(body), value) == nil
}

// replace writes a small file that is either whole or not there when the process is killed. It is not synced: after a
// loss of power it may be gone or torn, which its checksum tells, and then the file is asked for in the storage.
func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("name a file of the spool: %w", err)
	}
	return nil
}

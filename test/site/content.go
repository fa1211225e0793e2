package site

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Thing is a file, directory or link as it lies on the disk.
type Thing struct {
	Mode     fs.FileMode
	Uid, Gid uint32
	Mtime    time.Time // of files
	Content  string    // of files: the SHA-256; of links: where it leads
}

func (x Thing) String() string {
	return fmt.Sprintf("%v %d:%d %v %s", x.Mode, x.Uid, x.Gid, x.Mtime.UTC().Format(time.RFC3339Nano), x.Content)
}

// Survey looks at everything in a data directory, and behind the links of its tablespaces.
func Survey(t testing.TB, dir string) map[string]Thing {
	t.Helper()
	all := map[string]Thing{}
	var look func(rel string) error
	look = func(rel string) error {
		full := filepath.Join(dir, rel)
		info, err := os.Lstat(full)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		x := Thing{Mode: info.Mode(), Uid: st.Uid, Gid: st.Gid}
		isSpace := path.Dir(rel) == "pg_tblspc"
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			x.Content, err = os.Readlink(full)
		case info.Mode().IsRegular():
			x.Mtime = info.ModTime()
			x.Content, err = SumFile(full)
		}
		all[rel] = x
		if err != nil || !info.IsDir() && !isSpace {
			return err
		}
		names, err := os.ReadDir(full)
		for _, n := range names {
			if err == nil {
				err = look(path.Join(rel, n.Name()))
			}
		}
		return err
	}
	if err := look("."); err != nil {
		t.Fatal(err)
	}
	return all
}

func SumFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// OddNames is what a file may be called, all of it allowed by Linux.
var OddNames = []string{"a space", " leading and trailing ", "new\nline", `back\slash`, `\n`, `"double"`, "'single'", "key=value", "#comment",
	"base@1+2", "16384@0+1048576", "-leading-dash", "--flag", "*", "$HOME", "`id`", "%p", "é", "日本語", "\xff\xfe not UTF-8 \x80", "\xe9.latin1",
	"tab\there", "\x01\x1b[31m", "ends with.", ".hidden", "{\"json\":1}", strings.Repeat("long name ", 22) + "end", "\u2028", "cr\r",
	// Left out of a backup at the top of the data directory, and only there:
	"postmaster.pid", "postmaster.opts", "backup_label", "tablespace_map", "recovery.signal", "standby.signal", "recovery.conf",
	"pg_control", "backup_manifest", "log", "pg_wal", "current_logfiles", "core"}

func RandomBytes(rnd *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, _ = rnd.Read(b) // never fails
	return b
}

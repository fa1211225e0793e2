package site

import (
	"os"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

func Mkdir(t testing.TB, path string, mode os.FileMode, uid int) string {
	t.Helper()
	if err := os.Mkdir(path, mode); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(path); err != nil {
		t.Fatal(err)
	}
	if uid >= 0 {
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

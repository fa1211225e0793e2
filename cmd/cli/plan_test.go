package cli

import "testing"

func TestHidePassword(t *testing.T) {
	for line, want := range map[string]string{
		"host=a password=secret port=1":             "host=a password=…",
		"primary_conninfo = 'password=secret'":      "primary_conninfo = 'password=…",
		"PASSWORD = 'a b c' x":                      "PASSWORD =…",
		"postgres://me:s:cr@et@host/db":             "postgres://me:…@host/db",
		"postgresql://me:secret@host/db":            "postgresql://me:…@host/db",
		"s3://bucket/prefix":                        "s3://bucket/prefix",
		"primary_conninfo = 'password=''se cret'''": "primary_conninfo = 'password=…",
	} {
		if got := hidePassword(line); got != want {
			t.Errorf("%q becomes %q, want %q", line, got, want)
		}
	}
}

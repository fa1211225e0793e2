package datadir

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The file stays valid and says the same of everything but its checkpoint, in every version.
func TestWithoutCheckpoint(t *testing.T) {
	files, err := filepath.Glob("testdata/pg_control.??")
	if err != nil || len(files) < 5 {
		t.Fatalf("files of real servers: %v %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		before, err := ParseControl(data)
		if err != nil {
			t.Fatal(err)
		}
		poisoned, err := WithoutCheckpoint(data)
		if err != nil {
			t.Fatal(err)
		}
		after, err := ParseControl(poisoned)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if after.Checkpoint != noCheckpoint {
			t.Errorf("%s: the checkpoint is at %s", file, after.Checkpoint)
		}
		if after.Checkpoint = before.Checkpoint; after != before {
			t.Errorf("%s: %+v became %+v", file, before, after)
		}
		if bytes.Equal(data, poisoned) || len(data) != len(poisoned) {
			t.Errorf("%s: it has %d bytes, had %d", file, len(poisoned), len(data))
		}
	}
	if _, err := WithoutCheckpoint(make([]byte, 8192)); err == nil {
		t.Error("zeros pass for a pg_control")
	}
}

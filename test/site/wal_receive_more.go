package site

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// SegmentsOf are the complete segments of a timeline in a repository that is a directory, by name; and all pieces.
func SegmentsOf(t testing.TB, repo string, tli int) (full map[string]string, pieces []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repo, fmt.Sprintf("main/wal/*/%08X/*.zst", tli)))
	Must(t, err)
	full = map[string]string{}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".zst")
		switch {
		case len(name) == 24:
			full[name] = f
		case strings.HasSuffix(name, ".piece"):
			pieces = append(pieces, name)
		}
	}
	return full, pieces
}

func FirstOf(full map[string]string) string { return slices.Min(slices.Collect(maps.Keys(full))) }

func LastOf(full map[string]string) (last string) {
	for name := range full {
		last = max(last, name)
	}
	return last
}

// Cpu is the CPU time that it has used.
func (r *Receiver) Cpu(t testing.TB) time.Duration {
	t.Helper()
	_, rest, _ := strings.Cut(string(ReadFile(t, fmt.Sprintf("/proc/%d/stat", r.Cmd.Process.Pid))), ") ")
	fields := strings.Fields(rest)
	return time.Duration(Number(t, fields[11])+Number(t, fields[12])) * 10 * time.Millisecond // utime and stime, in hundredths
}

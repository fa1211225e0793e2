//go:build linux && !purego

package codec

import (
	"os"
	"strings"
	"testing"
)

// A CPU whose extensions nobody finds would be slow without a word.
func TestLanesAreUsedWhereTheCPUHasThem(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Contains(string(info), " sha_ni") && strings.Contains(string(info), " avx2")
	if lanes() != want {
		t.Errorf("lanes: %v, /proc/cpuinfo says %v", lanes(), want)
	}
}

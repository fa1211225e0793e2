package patience

import (
	"os"
	"strings"
	"testing"
)

// docs/wal.md shows the table, and nothing else in its place.
func TestTableIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/wal.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, ok := strings.Cut(string(page), "\n|---|---|---|---|---|\n")
	shown, _, _ = strings.Cut(shown, "\n\n")
	want := make([]string, len(Table))
	for i, r := range Table {
		want[i] = r.String()
	}
	if text := strings.Join(want, "\n"); !ok || shown != text {
		t.Errorf("docs/wal.md has\n%s\nand not\n%s", shown, text)
	}
}

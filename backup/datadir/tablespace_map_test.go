package datadir

import (
	"testing"
)

func TestTablespaceMapLines(t *testing.T) {
	text := "16384 /a\n16385 " + EscapeMap("/b\nc\\d\re") + "\n"
	lines := MapLines(text)
	if len(lines) != 2 || lines[0] != "16384 /a" || lines[1] != "16385 /b\\\nc\\\\d\\\re" {
		t.Errorf("%q", lines)
	}
}

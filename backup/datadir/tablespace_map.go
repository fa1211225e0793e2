package datadir

import (
	"fmt"
	"strconv"
	"strings"
)

// MapLines splits a tablespace_map where a line break is not escaped.
func MapLines(text string) (lines []string) {
	var line strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\n' {
			lines = append(lines, line.String())
			line.Reset()
			continue
		}
		line.WriteByte(text[i])
		if text[i] == '\\' && i+1 < len(text) {
			i++
			line.WriteByte(text[i])
		}
	}
	if line.Len() > 0 {
		lines = append(lines, line.String())
	}
	return lines
}

// EscapeMap escapes a path as read_tablespace_map reads it (xlogrecovery.c).
func EscapeMap(p string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", "\\\n", "\r", "\\\r").Replace(p)
}

func SpacePath(oid uint32) string { return fmt.Sprintf("pg_tblspc/%d", oid) }

// Mapped reads a tablespace_map: locations by OID.
func Mapped(text string) map[uint32]string {
	at := map[uint32]string{}
	for _, line := range MapLines(text) {
		oid, location, _ := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(oid, 10, 32); err == nil {
			at[uint32(n)] = unescapeMap(location)
		}
	}
	return at
}

// unescapeMap is escapeMap backwards.
func unescapeMap(p string) string {
	return strings.NewReplacer(`\\`, `\`, "\\\n", "\n", "\\\r", "\r").Replace(p)
}

package site

import (
	"bytes"
	"strings"
)

// Deep stands for JSON of a million arrays in each other, which Go would not write.
const Deep = "a million arrays"

func deepen(data []byte) []byte {
	return bytes.ReplaceAll(data, []byte(`"`+Deep+`"`), []byte(strings.Repeat("[", 1_000_000)+strings.Repeat("]", 1_000_000)))
}

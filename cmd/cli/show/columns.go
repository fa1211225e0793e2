package show

import (
	"io"
)

// Columns prints rows with a word in front; the word of the row before is not repeated.
type Columns struct {
	W     io.Writer
	last  string
	Width int // of the words, at least 10
}

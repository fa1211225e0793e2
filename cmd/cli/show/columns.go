package show

import (
	"fmt"
	"io"
)

// Columns prints rows with a word in front; the word of the row before is not repeated.
type Columns struct {
	W     io.Writer
	last  string
	Width int // of the words, at least 10
}

// Row prints one, with its word unless the row before has the same.
func (c *Columns) Row(word, format string, args ...any) {
	show := word
	if word == c.last {
		show = ""
	} else if word != "" {
		c.last = word
	}
	fmt.Fprintf(c.W, "%-*s%s\n", max(10, c.Width), show, fmt.Sprintf(format, args...))
}

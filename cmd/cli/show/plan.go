package show

import (
	"fmt"
)

func (c *Columns) Row(word, format string, args ...any) {
	show := word
	if word == c.last {
		show = ""
	} else if word != "" {
		c.last = word
	}
	fmt.Fprintf(c.W, "%-*s%s\n", max(10, c.Width), show, fmt.Sprintf(format, args...))
}

package show

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable writes text. What stands in a repository may be meant for the terminal of who reads it, to clear it or to
// show something else: control characters are written as JSON has them, so that JSON says the same as before.
type Printable struct{ io.Writer }

func (p Printable) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.Writer, Visible(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Visible is a text with its control characters in the form \u001b, but for tabs and the ends of lines.
func Visible(text string) string {
	control := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	if !strings.ContainsFunc(text, control) {
		return text
	}
	var out strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if control(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteString(text[:n]) // also what is no UTF-8: names of files need not be
		}
		text = text[n:]
	}
	return out.String()
}

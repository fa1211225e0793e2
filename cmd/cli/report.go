package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// failure is why a command failed, as --json and --log-format json print it. Without a text there is nothing to say: the result
// that was printed, or the exit code, is the answer.
type failure struct {
	ExitCode int    `json:"exit_code"`
	Kind     string `json:"kind"` // of meanings, or otherKind
	Text     string `json:"text"`
	Detail   string `json:"detail,omitempty"` // lines
	Hint     string `json:"hint,omitempty"`
}

// otherKind is the kind of an error that meanings do not have.
const otherKind = "other"

// judge finds out what an error means. The exit code of nil is 0.
func judge(err error) (f failure) {
	if err == nil {
		return f
	}
	for _, m := range meanings {
		if !errors.Is(err, m.err) {
			continue
		}
		f.Kind, f.Hint = cmp.Or(f.Kind, m.kind), cmp.Or(f.Hint, m.hint)
		if f.ExitCode = m.code; m.code != 0 {
			break
		}
	}
	f.Kind, f.ExitCode = cmp.Or(f.Kind, otherKind), cmp.Or(f.ExitCode, app.ExitFailure)
	if c, ok := errors.AsType[*app.Coded](err); ok {
		f.ExitCode = c.Code
		if c.Err == nil {
			return f
		}
	}
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = shorten(lines[i])
	}
	f.Text = lines[0]
	f.Detail = strings.Join(slices.DeleteFunc(lines[1:], func(line string) bool { return line == "" }), "\n")
	return f
}

// finish ends a command's output, and returns its exit code. With --json standard output is one JSON value in any case: the result,
// or, of a command that has none, why it failed. The text for people goes to standard error as always.
func finish(a *app.App, err error) int {
	if f := judge(err); f.Text != "" && wantsJSON(a.Args) && !a.Raw.Wrote() {
		_ = show.JSON(a.Out, map[string]failure{"error": f}) // if this fails, the command's own failure is still the one to report
	}
	return report(a.Err, logFormat(a.Args), a.Raw.End(err))
}

// wantsJSON says whether a command line has --json, also one that cannot be understood.
func wantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 { // what follows are no flags
		args = args[:i]
	}
	return slices.Contains(args, "--json")
}

// logFormat is --log-format, also of a command line that cannot be understood.
func logFormat(args []string) string {
	return flagValue(args, "--log-format", os.Getenv("PGOBJ_LOG_FORMAT"))
}

// report prints an error in PostgreSQL's shape, or in a JSON log as one more line of it, and returns its exit code; 0 for nil.
func report(w io.Writer, format string, err error) int {
	f := judge(err)
	w = show.Printable{Writer: w}
	switch {
	case f.Text == "":
	case format == "json":
		newLogger(w, "error", format).Error(f.Text, "error", f)
	default:
		f.print(w)
	}
	return f.ExitCode
}

func (f failure) print(w io.Writer) {
	fmt.Fprintf(w, "ERROR:  %s\n", f.Text)
	for line := range strings.SplitSeq(f.Detail, "\n") {
		if line != "" {
			fmt.Fprintf(w, "DETAIL:  %s\n", line)
		}
	}
	if f.Hint != "" {
		fmt.Fprintf(w, "HINT:  %s\n", f.Hint)
	}
}

// shorten cuts the middle out of a line that nobody would read to its end: names in a damaged repository may be as long as
// somebody likes.
func shorten(line string) string {
	const most = 1500
	if len(line) <= most {
		return line
	}
	return strings.ToValidUTF8(line[:most*2/3]+" […] "+line[len(line)-most/3:], "?")
}

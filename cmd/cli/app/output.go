package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// ErrOutput: standard output did not take what the command had to say.
var ErrOutput = errors.New("the result could not be written")

// Output is where results are written. It remembers the first failure, so that no command has to look at each line that
// it prints: a command whose result is lost, on a full device say, does not end well.
type Output struct {
	io.Writer
	err   error
	wrote bool
}

func (o *Output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.Writer.Write(p)
	o.err, o.wrote = err, true
	return n, err
}

// Wrote says whether anything was printed.
func (o *Output) Wrote() bool { return o.wrote }

// End closes standard output, as some file systems tell only then that there is no room, and returns the error of a command
// that returned err. A failure of the command's own goes before the loss of its text. Nothing is lost of a command that had
// nothing to say: wal-fetch must not end with 1 for the sake of a log on a full disk.
func (o *Output) End(err error) error {
	if f, ok := o.Writer.(*os.File); ok && o.err == nil && o.wrote {
		o.err = f.Close()
	}
	c, quiet := errors.AsType[*Coded](err)
	switch quiet = quiet && c.Err == nil; {
	case o.err == nil:
		return err
	case quiet:
		return &Coded{c.Code, o.lost()}
	case err == nil, errors.Is(err, o.err):
		return o.lost()
	}
	return err
}

func (o *Output) lost() error { return fmt.Errorf("%w: %w", ErrOutput, o.err) }

// EndHelp is end for --help. A reader who has gone (| head) has seen enough of it.
func (o *Output) EndHelp() error {
	if err := o.End(nil); !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return nil
}

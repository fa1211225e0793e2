package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// tour is one walk through the demonstration: the state that its steps share, and how they print.
type tour struct {
	w       io.Writer
	base    string   // our directory
	storage []string // the environment that says where pgobj stores
	hidden  string   // a secret that is not printed
	pgobj   string
	cluster *pgtest.Cluster
	began   time.Time
	steps   int

	target string            // the time to go back to
	before map[string]string // what each table held then
}

// makeRepository makes the directory that stands for another machine's disk.
func (t *tour) makeRepository() (string, error) {
	dir := filepath.Join(t.base, "repository")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, testenv.ChownPostgres(dir)
}

func (t *tour) run(ctx context.Context) (err error) {
	if t.pgobj, err = testenv.BuildPgobj(); err != nil {
		return err
	}
	defer func() {
		if t.cluster == nil {
			return
		}
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\nlast lines of the server's log:\n%s", err, indent(lastLines(t.cluster.Log(), 30)))
		}
		err = errors.Join(err, t.cluster.Close())
	}()
	for _, step := range []func(context.Context) error{t.start, t.fill, t.backup, t.work, t.disaster, t.loseAll, t.list, t.restore, t.recover, t.compare} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	t.say("\nDone in %.0f s. Everything that was started is stopped, and every file is removed.", time.Since(t.began).Seconds())
	return nil
}

func (t *tour) say(format string, args ...any) { fmt.Fprintf(t.w, format+"\n", args...) }

// step begins the next step with a sentence.
func (t *tour) step(format string, args ...any) {
	t.steps++
	t.say("\n%d. "+format, append([]any{t.steps}, args...)...)
}

// note prints a result below the step.
func (t *tour) note(format string, args ...any) { t.say("   "+format, args...) }

func (t *tour) showCommand(args ...string) { t.note("$ %s", strings.Join(args, " ")) }

// shell prints a command as one would type it, runs it with the tour's settings and prints what it says.
func (t *tour) shell(ctx context.Context, args ...string) error {
	t.showCommand(quoted(args)...)
	return t.execute(ctx, &indented{w: t.w, begin: true}, args...)
}

// quiet runs a command and returns what it said on stdout and stderr.
func (t *tour) quiet(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	if err := t.execute(ctx, &out, args...); err != nil {
		return "", fmt.Errorf("%w\n%s", err, indent(out.String()))
	}
	return out.String(), nil
}

// execute runs a program of pgobj or PostgreSQL as the user postgres. When ctx ends, so does all that it
// started.
func (t *tour) execute(ctx context.Context, out io.Writer, args ...string) error {
	name := t.pgobj
	if args[0] != "pgobj" {
		name = t.cluster.Bin(args[0])
	}
	cmd := exec.CommandContext(ctx, name, args[1:]...)
	cmd.Env = append(os.Environ(), slices.Concat(t.cluster.Env(), t.storage, []string{"PGOBJ_LOG_LEVEL=warn"})...)
	testenv.AsPostgres(cmd)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args[:min(2, len(args))], " "), cmp.Or(context.Cause(ctx), err))
	}
	return nil
}

// sql prints a statement and runs it.
func (t *tour) sql(ctx context.Context, statement string) error {
	t.note("postgres=# %s;", statement)
	if _, err := t.ask(ctx, statement); err != nil {
		return err
	}
	return nil
}

func (t *tour) ask(ctx context.Context, query string) (string, error) {
	answer, err := t.cluster.Query(ctx, "postgres", query)
	if err != nil {
		return "", fmt.Errorf("%s: %w", query, err)
	}
	return answer, nil
}

// await polls a query until it answers "t".
func (t *tour) await(ctx context.Context, what, query string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var last error
	err := testenv.Until(ctx, what, func() bool {
		var answer string
		answer, last = t.cluster.Query(ctx, "postgres", query)
		return last == nil && answer == "t"
	})
	return errors.Join(err, last)
}

func quoted(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		if strings.ContainsAny(a, " '") {
			args[i] = "'" + a + "'"
		}
	}
	return args
}

// indented puts each line that is written to it a little to the right.
type indented struct {
	w     io.Writer
	begin bool // of a line
}

func (i *indented) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if i.begin {
			line = append([]byte("     "), line...)
		}
		if _, err := i.w.Write(line); err != nil {
			return 0, err
		}
		i.begin = bytes.HasSuffix(line, []byte("\n"))
	}
	return len(p), nil
}

func indent(text string) string {
	var b strings.Builder
	_, _ = (&indented{w: &b, begin: true}).Write([]byte(text)) // a Builder takes all
	return b.String()
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

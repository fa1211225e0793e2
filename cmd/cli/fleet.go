package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/config"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage/retry"
)

// servers is the tag of a command in the grammar that says for how many servers it runs; without it, for one.
const (
	servers  = "servers"
	noServer = "none"   // it is for the whole storage, or for nothing
	toRead   = "read"   // for several; all are those of the configuration, or else of the storage
	active   = "active" // the tag of a command that stores something of a server
)

// first is which of two errors to tell: that of a command line, or that of the configuration, which it may be for lack of. A command that
// is for no server does not need one.
func first(command *kong.Context, line, conf error) error {
	noServerChosen := errors.Is(conf, config.ErrNoChoice) || errors.Is(conf, config.ErrUnknown)
	switch {
	case conf == nil, line != nil && noServerChosen:
		return line
	case line != nil, command.Selected().Tag.Get(servers) != noServer:
		return conf
	case noServerChosen, command.Selected().Name == "version":
		return nil
	}
	return conf
}

// suits refuses a command that makes no sense for the servers that were chosen.
func suits(command *kong.Context, a *app.App) error {
	c, tag := a.ConfigFile, command.Selected().Tag
	kind := tag.Get(servers)
	switch {
	case kind == noServer:
	case c.Many() && kind == "":
		return app.Usagef("%s is for one server, and %s says %s", command.Selected().Name, c.By, a.Server)
	case c.Everything && kind != toRead:
		return app.Usagef("%s says %s, and no configuration file has sections for servers: %s does this for servers that are configured", c.By, config.All, command.Selected().Name)
	case tag.Has(active) && !c.Many() && !c.Active(a.Server):
		return fmt.Errorf("%w: %w: server %s", app.ErrUsage, config.ErrInactive, a.Server)
	}
	return nil
}

// one is what became of the command for one server.
type one struct {
	Server string          `json:"server"`
	Code   int             `json:"exit_code"`
	Result json.RawMessage `json:"result,omitempty"` // what the command printed
	out    bytes.Buffer
}

// forEach runs the command line once for each server, each in a process of its own with its own environment: what the clients of the
// storage and of PostgreSQL read there differs between servers. One that fails does not keep the others. env is the environment without
// configuration files.
func forEach(ctx context.Context, a *app.App, command *kong.Context, env []string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the path of pgobj: %w", err)
	}
	names, err := everyServer(ctx, a)
	if err != nil {
		return err
	}
	asJSON := slices.ContainsFunc(command.Flags(), func(f *kong.Flag) bool { return f.Name == "json" && f.Target.Bool() })
	all := make([]*one, len(names))
	var group errgroup.Group
	var lock sync.Mutex
	group.SetLimit(a.AtOnce)
	for i, name := range names {
		all[i] = &one{Server: name, Code: app.ExitInterrupted}
		group.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			stderr := &prefixed{w: a.Err, name: name, lock: &lock}
			cmd := exec.CommandContext(ctx, exe, only(a.Args, name)...)
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			cmd.Env, cmd.Stdout, cmd.Stderr = env, &all[i].out, stderr
			err := cmd.Run()
			stderr.end()
			if all[i].Code = cmd.ProcessState.ExitCode(); err != nil && all[i].Code <= 0 {
				all[i].Code = app.ExitFailure // it could not be started, or crashed
				fmt.Fprintf(stderr, "%v\n", err)
			}
			if !asJSON {
				lock.Lock()
				defer lock.Unlock()
				all[i].print(a.Out)
			}
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
	for _, s := range all {
		if asJSON && json.Valid(s.out.Bytes()) {
			s.Result = s.out.Bytes()
		}
	}
	if asJSON {
		err = show.JSON(a.Out, all)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", app.ErrInterrupted, context.Cause(ctx))
	}
	return errors.Join(err, failed(all))
}

// everyServer names those that the command is for.
func everyServer(ctx context.Context, a *app.App) (names []string, err error) {
	if !a.ConfigFile.Everything {
		return a.ConfigFile.Servers, nil
	}
	root, err := a.Root(retry.Policy{})
	if err != nil {
		return nil, err
	}
	for name, err := range catalog.Servers(ctx, root) {
		if err != nil {
			return nil, err
		}
		if name != config.All {
			names = append(names, name)
		}
	}
	if names == nil {
		return nil, fmt.Errorf("%w: %s has none", app.ErrNoServer, root)
	}
	return names, nil
}

// failed is the worst exit code, with the servers that did not end with 0.
func failed(all []*one) error {
	var codes []int
	var names []string
	for _, s := range all {
		if codes = append(codes, s.Code); s.Code != 0 {
			names = append(names, fmt.Sprintf("%s (exit code %d)", s.Server, s.Code))
		}
	}
	if names == nil {
		return nil
	}
	return &app.Coded{Code: app.Worst(codes), Err: fmt.Errorf("%d of %s did not end well: %s", len(names), show.Number(len(all), "server"), strings.Join(names, ", "))}
}

// only is a command line for one server.
func only(args []string, name string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		switch {
		case strings.HasPrefix(arg, serverFlag+"="):
			args[i] = serverFlag + "=" + name
		case arg == serverFlag && i+1 < len(args):
			args[i+1] = name
		}
	}
	return append([]string{serverFlag, name}, args...)
}

// print shows what the command printed, below the name of the server.
func (s *one) print(w io.Writer) {
	if s.out.Len() > 0 {
		fmt.Fprintf(w, "== %s\n%s", s.Server, s.out.Bytes())
	}
}

// prefixed writes whole lines that say which server they are of.
type prefixed struct {
	w    io.Writer
	name string
	lock *sync.Mutex
	rest []byte
}

func (p *prefixed) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte("\n"))
		if !whole {
			return len(data), nil
		}
		p.line(line)
		p.rest = rest
	}
}

func (p *prefixed) end() {
	if len(p.rest) > 0 {
		p.line(p.rest)
	}
	p.rest = nil
}

// line marks a line of the log in its own format.
func (p *prefixed) line(line []byte) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if members, object := bytes.CutPrefix(line, []byte(`{"`)); object {
		fmt.Fprintf(p.w, "{\"server\":%q,\"%s\n", p.name, members)
		return
	}
	fmt.Fprintf(p.w, "%s: %s\n", p.name, line)
}

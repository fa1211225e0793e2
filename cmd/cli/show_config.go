package cli

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/config"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/storage/retry"
)

// configCmd shows what holds. It ends with 2 where a value cannot be right.
type configCmd struct {
	JSON bool `name:"json" help:"Print JSON: one object."`
}

// holds is a setting as --json prints it.
type holds struct {
	Name     string `json:"name"`               // in a file
	Variable string `json:"variable,omitempty"` // none: only files have it
	Value    string `json:"value"`
	From     string `json:"from"` // flag, environment, file or default
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
}

func (h holds) origin() string {
	switch h.From {
	case "file":
		return config.Value{File: h.File, Line: h.Line}.String()
	case "environment":
		return "environment " + h.Variable
	case "flag":
		return "flag --" + strings.ReplaceAll(h.Name, "_", "-")
	}
	return h.From
}

func (c *configCmd) Run(a *app.App) error {
	k, err := kong.New(&grammar{}, kong.KindMapper(reflect.String, kong.MapperFunc(verbatim)))
	if err != nil {
		return fmt.Errorf("set up the command line: %w", err)
	}
	flags := lasting(k.Model)
	all := []holds{}
	var wrong []error
	for _, variable := range variables(a.ConfigFile, flags) {
		h, value, set := look(a, variable, flags[variable])
		if !set {
			continue
		}
		if err := judgeValue(variable, value, flags[variable]); err != nil && h.From != "default" {
			wrong = append(wrong, fmt.Errorf("%s: %s: %w", h.origin(), h.Name, err))
		}
		h.Value = config.Hide(variable, value)
		all = append(all, h)
	}
	if a.Storage != "" {
		_, err := a.Open(retry.Policy{}) // makes no request
		wrong = append(wrong, err)
	}
	if err := errors.Join(wrong...); err != nil {
		return fmt.Errorf("%w: %w", app.ErrUsage, err)
	}
	if c.JSON {
		return show.JSON(a.Out, struct {
			Server   string  `json:"server"`
			Active   bool    `json:"active"`
			Settings []holds `json:"settings"`
		}{a.Server, a.ConfigFile.Active(a.Server), all})
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
	for _, h := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", h.Name, h.Value, h.origin())
	}
	return w.Flush()
}

// lasting are the flags of all commands that a variable stands for, by its name.
func lasting(model *kong.Application) map[string][]*kong.Flag {
	flags := map[string][]*kong.Flag{}
	_ = kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if f, ok := node.(*kong.Flag); ok && len(f.Envs) > 0 {
			flags[f.Envs[0]] = append(flags[f.Envs[0]], f)
		}
		return next(nil)
	})
	return flags
}

// variables lists what may hold: pgobj's own in the order of the grammar, what only files have, and those of other programs.
func variables(c *config.Config, flags map[string][]*kong.Flag) (names []string) {
	own := append(environment(reflect.TypeFor[grammar]()), config.Description, config.Active, config.BackupAge, config.WALAge)
	for name := range c.Values {
		names = append(names, name)
	}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if config.Foreign(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var once []string
	for _, name := range append(own, names...) {
		if !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	return once
}

// look finds the value that holds for a variable, and where it comes from.
func look(a *app.App, variable string, flags []*kong.Flag) (h holds, value string, set bool) {
	h = holds{Name: config.Name(variable), Variable: variable}
	v, filed := a.ConfigFile.Values[variable]
	fromEnv, inEnv := os.LookupEnv(variable)
	switch {
	case config.Only[variable] != nil:
		h.Variable, h.From, h.File, h.Line, value = "", "file", v.File, v.Line, v.Text
		return h, value, filed
	case variable == "PGOBJ_SERVER":
		value = a.Server
		switch {
		case a.ConfigFile.By == serverFlag:
			h.From = "flag"
		case a.ConfigFile.Named:
			h.From = "environment"
		case v.File != "":
			h.From, h.File, h.Line = "file", v.File, v.Line
		default:
			h.From = "default"
		}
		return h, value, true
	case len(flags) > 0 && flagValue(a.Args, "--"+flags[0].Name, "") != "":
		h.From, value = "flag", flagValue(a.Args, "--"+flags[0].Name, "")
	case inEnv && (!filed || a.ConfigFile.Overridden[variable]):
		h.From, value = "environment", fromEnv
	case filed:
		h.From, h.File, h.Line, value = "file", v.File, v.Line, v.Text
	default:
		var defaults []string
		for _, f := range flags {
			if f.HasDefault && !slices.Contains(defaults, f.Default) {
				defaults = append(defaults, f.Default)
			}
		}
		h.From, value = "default", strings.Join(defaults, " or ")
		return h, value, defaults != nil
	}
	return h, value, true
}

// judgeValue says what the commands with these flags would say of a value.
func judgeValue(variable, value string, flags []*kong.Flag) (err error) {
	switch variable {
	case "PGOBJ_RETENTION":
		_, err = retention.ParsePolicy(value)
	case "PGOBJ_LABELS":
		_, err = app.ParseLabels(app.SplitLabels(value))
	}
	for _, f := range flags {
		if err != nil {
			return err
		}
		if f.Enum != "" && !f.EnumMap()[value] {
			return fmt.Errorf("%q is none of %s", value, f.Enum)
		}
		err = f.Parse(kong.ScanFromTokens(kong.Token{Value: value}), reflect.New(f.Target.Type()).Elem())
	}
	return err
}

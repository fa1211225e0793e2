package app

import (
	"cmp"
	"os"

	"github.com/pgobj/pgobj/cmd/cli/show"
)

// Invocation is how pgobj is called for the same storage from the same environment, without a command.
func (a *App) Invocation() string {
	line := "pgobj"
	if a.ConfigFile.Path != "" && a.ConfigFile.Path != os.Getenv("PGOBJ_CONFIG") {
		line += " --config " + show.ShellQuote(a.ConfigFile.Path)
	}
	for _, s := range a.settings() {
		if s.value != cmp.Or(os.Getenv(s.env), s.otherwise) {
			line += " " + s.flag + " " + show.ShellQuote(s.value)
		}
	}
	return line
}

package cli

import (
	"fmt"
	"runtime"

	"github.com/pgobj/pgobj/cmd/cli/app"
)

type versionCmd struct{}

func (versionCmd) Run(a *app.App) error {
	_, err := fmt.Fprintf(a.Out, "pgobj %s (repository format 1, %s %s/%s)\n", a.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

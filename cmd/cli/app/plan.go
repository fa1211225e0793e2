package app

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// Warned says that whoever reads results has just read the warnings of the log, on the same terminal.
func (a *App) Warned() bool {
	return isTerminal(a.Raw.Writer) && isTerminal(a.Err) && a.Log.Enabled(context.Background(), slog.LevelWarn)
}

// PrintCredentials names what of the environment the server needs to read the storage, where no file has it: restore_command
// names no credentials, and a server is not started from this shell.
func (a *App) PrintCredentials(out *show.Columns, p *restore.Plan) {
	if len(p.Path) == 0 || !p.Recovery.OwnCommand || !strings.HasPrefix(a.Storage, "s3:") {
		return
	}
	var names []string
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_REGION", "AWS_DEFAULT_REGION"} {
		if _, filed := a.ConfigFile.Filed(name); !filed && os.Getenv(name) != "" {
			names = append(names, name)
		}
	}
	if names != nil {
		out.Row("note", "this environment has %s: the environment of the server that recovers needs the same (systemctl edit postgresql, Environment=…). Or put them into a file that its user can read: --config FILE", strings.Join(names, ", "))
	}
}

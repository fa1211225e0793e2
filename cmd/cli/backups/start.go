package backups

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/pgobj/pgobj/backup/drill"
	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// startCommand is how the restored server is started on this host, by the user who restores.
func startCommand(p *restore.Plan) string {
	major := p.Backup.PGVersion / 10000
	file, named := p.ConfigFile()
	if debian := regexp.MustCompile(`^/etc/postgresql/([0-9]+)/([^/]+)/postgresql\.conf$`).FindStringSubmatch(file); named && debian != nil && debian[1] == strconv.Itoa(major) {
		return fmt.Sprintf("pg_ctlcluster %s %s start", debian[1], show.ShellQuote(debian[2]))
	}
	command := fmt.Sprintf("%s -D %s start", show.ShellQuote(pgCtl(major)), show.ShellQuote(p.Target))
	if file != "" { // the shell that pg_ctl runs takes the quotes away
		command += " -o " + show.ShellQuote("-c "+show.ShellQuote("config_file="+file))
	}
	if uid, _ := p.Owner(); os.Geteuid() == 0 && uid > 0 { // pg_ctl does not run as root
		name := "#" + strconv.Itoa(uid)
		if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
			name = u.Username
		}
		command = "runuser -u " + show.ShellQuote(name) + " -- " + command
	}
	return command
}

// pgCtl is pg_ctl of a major version: by its name, if the one in PATH is of that version.
func pgCtl(major int) string {
	found, _ := exec.LookPath("pg_ctl")
	found, _ = filepath.EvalSymlinks(found)
	for _, dir := range drill.Places(major) {
		path := filepath.Join(dir, "pg_ctl")
		if real, err := filepath.EvalSymlinks(path); err == nil && real != found {
			return path
		} else if err == nil {
			break
		}
	}
	return "pg_ctl"
}

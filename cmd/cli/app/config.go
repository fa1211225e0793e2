package app

// Config is what a configuration file says: lines NAME=VALUE, with the names of the environment variables, as a
// systemd EnvironmentFile has them.
type Config struct {
	Path   string // absolute
	Values map[string]string
	Leaks  bool // anybody on this host can read the secrets in it
}

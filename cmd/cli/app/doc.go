// Package app is what every command gets to work with: settings, streams, log, repository, exit codes. It refuses to
// know any command.
package app

package app

import (
	"errors"
	"reflect"
)

// MayWorkAhead says why no process may be started that works ahead for the server on a data directory; nil: one may. When the
// one that started it ends, a process becomes the child of process 1. Where that is the postmaster, as in containers, it
// takes the end of any child by a signal, or with another code than 0 or 1, for a backend's crash, and restarts the server:
// up to version 17 in CleanupBackend, from 18 on as an "untracked child process" (postmaster.c).
func MayWorkAhead(dataDir string) error {
	pid, _, ok := RunningPostmaster(dataDir)
	switch {
	case !ok:
		return errors.New("no server runs in the data directory")
	case pid == 1:
		return errors.New("the postmaster is process 1, and would take the end of a pgobj process for a crash: start its container with an init process (docker run --init)")
	}
	return nil
}

// Args are the settings as flags for another process of this program.
func (s *Settings) Args() []string {
	var out []string
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		name, ok := v.Type().Field(i).Tag.Lookup("name")
		if ok && v.Field(i).Kind() == reflect.String && v.Field(i).String() != "" {
			out = append(out, "--"+name+"="+v.Field(i).String())
		}
	}
	return out
}

package app

import (
	"context"
	"reflect"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/admit"
	"github.com/pgobj/pgobj/walstore/ahead"
	"github.com/pgobj/pgobj/walstore/spool"
)

// Ahead is the server's archive for what works ahead of PostgreSQL.
func (a *App) Ahead() ahead.Archive {
	return ahead.Archive{
		Identity: []string{a.Storage, a.S3Endpoint, a.S3Region, a.Server}, Flags: a.args(), Open: a.Open, Log: a.Log,
		Admit: func(ctx context.Context, s storage.Store, memory *spool.Markers, systemID uint64) error {
			return a.Gate(s, memory).Admit(ctx, systemID)
		},
	}
}

// Gate keeps other clusters' WAL out of the server's archive. memory may be nil.
func (a *App) Gate(s storage.Store, memory *spool.Markers) *admit.Gate {
	return &admit.Gate{Store: s, Catalog: a.Catalog(s), Memory: memory, Log: a.Log}
}

// args are the settings as flags for another process of this program.
func (s *Settings) args() []string {
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

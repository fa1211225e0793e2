package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage/retry"
)

type backupVerify struct {
	Backup string `arg:"" optional:"" default:"LATEST" help:"Id of the backup, the beginning of one, oldest, LATEST (default), or all."`
	JSON   bool   `name:"json" help:"Print JSON: an array with one object a backup."`
	jobsFlag
}

// verified is what was found of one backup.
type verified struct {
	Backup        string  `json:"backup"`
	OK            bool    `json:"ok"`
	Error         string  `json:"error,omitempty"`
	Bytes         int64   `json:"bytes"`         // of content that were checked
	Fetched       int64   `json:"fetched"`       // bytes that were read from the storage for it
	Amplification float64 `json:"amplification"` // bytes of parts that a restore expands, over bytes of content; see FORMAT.md
	Seconds       float64 `json:"seconds"`
}

func (c *backupVerify) Run(ctx context.Context, a *app) error {
	jobs, err := c.count()
	if err != nil {
		return err
	}
	store, err := a.open(retry.Policy{})
	if err != nil {
		return err
	}
	cat := a.catalog(store)
	state, err := cat.Load(ctx)
	if err != nil {
		return err
	}
	entries := state.Complete()
	if c.Backup != "all" {
		e, err := state.Resolve(c.Backup)
		if err != nil {
			return err
		}
		entries = []*catalog.Entry{e}
	}
	results := []verified{}
	var bad []error
	for _, e := range entries {
		progress := &backup.Progress{}
		stop := a.show("backup-verify "+e.ID, progress)
		start := time.Now()
		err := backup.Verify(ctx, store, cat, e, jobs, progress)
		stop()
		if ctx.Err() != nil {
			return err
		}
		v := verified{Backup: e.ID, OK: err == nil, Bytes: progress.Bytes.Load(), Fetched: progress.Stored.Load(), Seconds: time.Since(start).Seconds()}
		v.Amplification = float64(progress.Read.Load()) / float64(max(v.Bytes, 1))
		if err != nil {
			v.Error = err.Error()
			bad = append(bad, fmt.Errorf("backup %s: %w", e.ID, err))
		}
		results = append(results, v)
		if !c.JSON && err == nil {
			fmt.Fprintf(a.Out, "backup %s is sound: checked %s, fetched %s for it, expanded %.2f times as much, in %s\n", v.Backup, size(v.Bytes), size(v.Fetched), v.Amplification, time.Since(start).Round(10*time.Millisecond))
		}
	}
	if c.JSON {
		if err := printJSON(a.Out, results); err != nil {
			return err
		}
	}
	return errors.Join(bad...)
}

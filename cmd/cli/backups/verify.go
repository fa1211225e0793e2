package backups

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/verify"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

type BackupVerify struct {
	Backup string         `arg:"" optional:"" default:"LATEST" help:"Id of the backup or its beginning, LATEST (default), or all."`
	Sample app.Percentage `name:"sample" default:"100" placeholder:"PERCENT" help:"Read only this percentage of the frames and WAL segments, chosen at random. The manifest, the indexes of parts and the presence of the WAL are always checked."`
	Seed   uint64         `name:"seed" help:"With --sample: choose the same sample as the run that printed this seed."`
	JSON   bool           `name:"json" help:"Print JSON: an array with one object for each backup."`
	app.JobsFlag
}

// verified is what was found of one backup.
type verified struct {
	Backup        string  `json:"backup"`
	OK            bool    `json:"ok"` // nothing that was read is wrong
	Error         string  `json:"error,omitempty"`
	Sample        float64 `json:"sample"`         // percent that were to be read
	Seed          uint64  `json:"seed,omitempty"` // that chose them
	Size          int64   `json:"size"`           // bytes of content in the backup
	Bytes         int64   `json:"bytes"`          // of these, checked
	Indexes       int64   `json:"indexes"`        // of parts, all of them
	WAL           int64   `json:"wal"`            // segments that the backup needs, and that are there
	WALRead       int64   `json:"wal_read"`       // of these, checked
	Fetched       int64   `json:"fetched"`        // bytes that were read from the storage for the content
	Amplification float64 `json:"amplification"`  // bytes of parts that a restore expands, over bytes of content; see FORMAT.md
	Seconds       float64 `json:"seconds"`
}

func (c *BackupVerify) Run(ctx context.Context, a *app.App) error {
	jobs, err := c.Count()
	if err != nil {
		return err
	}
	r, err := a.LoadKnown(ctx)
	if err != nil {
		return err
	}
	var bad []error
	if problems := r.State.Problems; len(problems) > 0 { // which may hide backups, also the one that was named
		bad = append(bad, fmt.Errorf("%w: %s", catalog.ErrDamaged, strings.Join(problems, "; ")))
	}
	name := c.Backup
	if name == "all" {
		name = "LATEST" // there has to be one: who checks a server whose name is mistyped has checked nothing
	}
	e, err := r.State.Resolve(name)
	if err != nil && bad != nil {
		return fmt.Errorf("%w\n%v", bad[0], err)
	}
	if err != nil {
		return err
	}
	entries := []*catalog.Entry{e}
	if c.Backup == "all" {
		entries = r.State.Complete()
	}
	if c.Sample < 100 && c.Seed == 0 {
		c.Seed = 1 + rand.Uint64N(1<<32)
	}
	results := []verified{}
	for _, e := range entries {
		req := verify.Request{Store: r.Store, Catalog: r.Cat, Entry: e, Workers: jobs, Sample: float64(c.Sample), Seed: c.Seed, Progress: &backup.Progress{}}
		v, err := c.verify(ctx, a, req)
		if ctx.Err() != nil {
			return context.Cause(ctx) // also when this one was finished: the others were not
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("backup %s: %w", e.ID, err))
		} else if !c.JSON {
			v.print(a)
		}
		results = append(results, v)
	}
	if c.JSON {
		if err := show.JSON(a.Out, results); err != nil {
			return err
		}
	}
	return errors.Join(bad...)
}

func (c *BackupVerify) verify(ctx context.Context, a *app.App, r verify.Request) (verified, error) {
	stop := a.Show("backup-verify "+r.Entry.ID, r.Progress)
	start := time.Now()
	found, err := verify.Verify(ctx, r)
	stop()
	p := r.Progress
	v := verified{
		Backup: r.Entry.ID, OK: err == nil, Sample: r.Sample, Size: found.Size, Bytes: p.Bytes.Load(), Indexes: found.Indexes, WAL: found.WAL, WALRead: found.WALRead,
		Fetched: p.Stored.Load(), Seconds: time.Since(start).Seconds(),
	}
	v.Amplification = float64(p.Read.Load()) / float64(max(v.Bytes, 1))
	if c.Sample < 100 {
		v.Seed = c.Seed
	}
	if err != nil {
		v.Error = err.Error()
	}
	return v, err
}

// print says what was looked at; of a sample, also what was not.
func (v verified) print(a *app.App) {
	took := time.Duration(v.Seconds * float64(time.Second)).Round(10 * time.Millisecond)
	if v.Sample < 100 {
		fmt.Fprintf(a.Out, "backup %s: no damage in a sample of %v %% (--seed %d): checked %s of %s (%s), and %d of %s; the rest was not read\n",
			v.Backup, v.Sample, v.Seed, show.Size(v.Bytes), show.Size(v.Size), show.Percent(v.Bytes, v.Size), v.WALRead, show.Number(v.WAL, "WAL segment"))
	} else {
		fmt.Fprintf(a.Out, "backup %s is sound: checked %s, and %s\n", v.Backup, show.Size(v.Bytes), show.Number(v.WALRead, "WAL segment"))
	}
	fmt.Fprintf(a.Out, "manifest and the indexes of %s are sound; fetched %s, expanded %.2f times the content, in %s\n", show.Number(v.Indexes, "part"), show.Size(v.Fetched), v.Amplification, took)
}

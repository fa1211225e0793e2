package lists

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/cmd/instant"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage/retry"
)

// DeleteCmd is pgobj delete …
type DeleteCmd struct {
	Before     deleteBefore     `cmd:"" servers:"write" help:"Delete everything that is not needed to restore this backup or time, and anything later."`
	Retain     deleteRetain     `cmd:"" servers:"write" help:"Delete all but the newest N good backups."`
	Target     deleteTarget     `cmd:"" help:"Delete one backup."`
	Oldest     deleteOldest     `cmd:"" servers:"write" help:"Delete the oldest backup."`
	Garbage    deleteGarbage    `cmd:"" servers:"write" help:"Delete no backup, but objects that no backup needs: leftovers of failed runs, old WAL."`
	Policy     deletePolicy     `cmd:"" servers:"write" help:"Delete the backups and WAL that the retention policy does not keep."`
	Everything deleteEverything `cmd:"" help:"Delete all backups and all WAL of a server."`
}

// deleteFlags are those of every kind of deletion.
type deleteFlags struct {
	Confirm bool   `name:"confirm" help:"Carry out the plan. Without this flag the plan is printed and nothing is changed."`
	Plan    string `name:"plan" placeholder:"ID" help:"With --confirm: carry out the plan only if it is still the one that was printed with this ID."`
	JSON    bool   `name:"json" help:"Print the plan and what was done as JSON."`
	limitFlags
}

// limitFlags are within what retention decides.
type limitFlags struct {
	Minimum      int           `name:"minimum-redundancy" env:"PGOBJ_MINIMUM_REDUNDANCY" default:"1" help:"Minimum number of good backups that every deletion leaves."`
	RunningLimit time.Duration `name:"running-limit" env:"PGOBJ_RUNNING_LIMIT" default:"72h" help:"How long a backup that began counts as running. Deletions do not remove the objects that it stored or reuses, and the WAL that it needs."`
}

func (l limitFlags) check() error {
	if l.Minimum < 1 || l.RunningLimit < 0 {
		return app.Usagef("--minimum-redundancy must be 1 or more, and --running-limit must not be negative")
	}
	return nil
}

// retentionFlag is the policy.
type retentionFlag struct {
	Retention string `name:"retention" env:"PGOBJ_RETENTION" placeholder:"POLICY" help:"REDUNDANCY n; RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS; keep daily n weekly n monthly n yearly n; any of these with pitr n days, which limits how long WAL is kept between backups."`
}

// policy is none without the flag.
func (f retentionFlag) policy() (p retention.Policy, set bool, err error) {
	if f.Retention == "" {
		return p, false, nil
	}
	if p, err = retention.ParsePolicy(f.Retention); err != nil {
		err = app.Usagef("--retention (PGOBJ_RETENTION): %v", err)
	}
	return p, true, err
}

// holdFlag has another default for those who delete by hand than for a nightly job.
type holdFlag struct {
	Hold time.Duration `name:"hold" env:"PGOBJ_HOLD" default:"0s" help:"Keep WAL that was archived less than this time ago: standbys may still need it."`
}

type deleteBefore struct {
	Point string `arg:"" name:"backup-or-time" help:"Backup, or time such as '2026-11-21 14:05:00+01'."`
	deleteFlags
	holdFlag
}

func (c *deleteBefore) Run(ctx context.Context, a *app.App) error {
	o := retention.Order{Kind: retention.Before, Backup: c.Point}
	t, err := app.ParseTime("delete before", c.Point)
	switch {
	case err == nil:
		if now := a.Now(); t.After(now) { // a slip of the pen: nobody needs to restore to a time that has not come
			return app.Usagef("delete before '%s': this is in the future; it is %s now (delete retain 1 keeps the newest good backup)", c.Point, now.UTC().Format("2006-01-02 15:04:05Z"))
		}
		o.Backup, o.Time = "", t
	case !errors.Is(err, instant.ErrForm): // else it is the name of a backup
		return err
	}
	err = c.run(ctx, a, o, c.Hold)
	if o.Backup != "" && errors.Is(err, catalog.ErrNoBackup) {
		err = fmt.Errorf("%w\nIt is not a time either: write a time as '2026-11-21 14:05:00+01'", err)
	}
	return err
}

// howMany is a number of backups.
type howMany int

func (n *howMany) UnmarshalText(text []byte) error {
	v, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a number: give retain the number of backups to keep; name a backup with target or before", text)
	}
	*n = howMany(v)
	return nil
}

type deleteRetain struct {
	N howMany `arg:"" name:"n" help:"Number of backups to keep."`
	deleteFlags
	holdFlag
}

func (c *deleteRetain) Run(ctx context.Context, a *app.App) error {
	if c.N < 1 {
		return app.Usagef("delete retain %d: at least 1 must stay (to delete all, use delete everything)", c.N)
	}
	return c.run(ctx, a, retention.Order{Kind: retention.Retain, N: int(c.N)}, c.Hold)
}

type deleteTarget struct {
	Backup string `arg:"" help:"Id of the backup or its beginning, latest, or oldest."`
	deleteFlags
	holdFlag
}

func (c *deleteTarget) Run(ctx context.Context, a *app.App) error {
	return c.run(ctx, a, retention.Order{Kind: retention.Target, Backup: c.Backup}, c.Hold)
}

type deleteOldest struct {
	deleteFlags
	holdFlag
}

func (c *deleteOldest) Run(ctx context.Context, a *app.App) error {
	return c.run(ctx, a, retention.Order{Kind: retention.Oldest}, c.Hold)
}

type deleteGarbage struct {
	deleteFlags
	holdFlag
}

func (c *deleteGarbage) Run(ctx context.Context, a *app.App) error {
	return c.run(ctx, a, retention.Order{Kind: retention.Garbage}, c.Hold)
}

type deleteEverything struct {
	Name string `arg:"" name:"server-name" help:"The server's name, to confirm that you mean this server."`
	deleteFlags
}

func (c *deleteEverything) Run(ctx context.Context, a *app.App) error {
	if c.Name != a.Server {
		return app.Usagef("delete everything %s: the server is %s (--server, PGOBJ_SERVER): give that name to delete all its backups and WAL", c.Name, a.Server)
	}
	return c.run(ctx, a, retention.Order{Kind: retention.Everything}, 0)
}

type deletePolicy struct {
	retentionFlag
	Hold time.Duration `name:"hold" env:"PGOBJ_HOLD" default:"24h" help:"Keep WAL that was archived less than this time ago: standbys may still need it."`
	deleteFlags
}

func (c *deletePolicy) Run(ctx context.Context, a *app.App) error {
	p, set, err := c.policy()
	if err != nil {
		return err
	}
	if !set {
		return app.Usagef("no policy is set: give --retention (or PGOBJ_RETENTION), such as 'RECOVERY WINDOW OF 4 WEEKS'")
	}
	return c.run(ctx, a, retention.Order{Kind: retention.ByPolicy, Policy: p}, c.Hold)
}

func (c *deleteFlags) run(ctx context.Context, a *app.App, o retention.Order, hold time.Duration) error {
	if c.Plan != "" && !c.Confirm {
		return app.Usagef("--plan needs --confirm")
	}
	if err := c.check(); err != nil {
		return err
	}
	if hold < 0 {
		return app.Usagef("--hold must be 0 or more")
	}
	store, err := a.Open(retry.Policy{})
	if err != nil {
		return err
	}
	cat := a.Catalog(store)
	o.Minimum, o.Running = c.Minimum, c.RunningLimit
	if o.Backup != "" {
		state, err := cat.Load(ctx)
		if err != nil {
			return err
		}
		e, err := state.Resolve(o.Backup)
		if err != nil {
			return err
		}
		o.Backup = e.ID
	}
	r := sweep.Request{Store: store, Catalog: cat, Order: o, Hold: hold, Now: a.Now, Log: a.Log}
	plan, err := sweep.Make(ctx, r)
	if err != nil {
		return err
	}
	if plan.N == 0 { // the log has no record
		if err := a.Known(ctx, store); err != nil {
			return err
		}
	}
	if !c.JSON {
		printDeletion(a, plan)
	}
	report := newReport(plan)
	switch {
	case c.Plan != "" && c.Plan != plan.ID():
		err = fmt.Errorf("%w: it was %s, and is %s now: read the new plan above, and confirm that one", sweep.ErrChanged, c.Plan, plan.ID())
	case c.Confirm:
		err = c.execute(ctx, a, r, plan, report)
	case !c.JSON && (!plan.Empty() || len(plan.Unpurged) > 0):
		fmt.Fprintf(a.Out, "\nNothing has been deleted. To carry out this plan, give the same command with --confirm; with --confirm --plan %s it deletes only if the plan is still exactly this one.\n", plan.ID())
	}
	if c.JSON {
		err = cmp.Or(err, show.JSON(a.Out, report))
	}
	return err
}

func (c *deleteFlags) execute(ctx context.Context, a *app.App, r sweep.Request, plan *sweep.Plan, report *deleteReport) error {
	result, err := sweep.Execute(ctx, r, plan)
	if err != nil {
		return err
	}
	report.Done, report.Removed = true, result.Removed
	for _, k := range result.Kept {
		report.Locked = append(report.Locked, lockedObject{k.Key, k.Until, k.Err.Error()})
	}
	if !c.JSON {
		fmt.Fprintf(a.Out, "\ndone: %s removed\n", show.Number(result.Removed, "object"))
		for i, k := range result.Kept {
			if i == 10 {
				fmt.Fprintf(a.Out, "  … and %d more\n", len(result.Kept)-i)
				break
			}
			fmt.Fprintf(a.Out, "  %s\n", lockedText(k))
		}
	}
	if len(result.Kept) > 0 {
		return fmt.Errorf("%w: %s; the first is %s", ErrLocked, show.Number(len(result.Kept), "object"), lockedText(result.Kept[0]))
	}
	return nil
}

func lockedText(k sweep.Refused) string {
	if !k.Until.IsZero() {
		return fmt.Sprintf("%s: locked until %s", k.Key, k.Until.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s: %v", k.Key, k.Err)
}

// ErrLocked: what was asked for is in the catalog, but the storage does not let all objects go.
var ErrLocked = errors.New("the storage did not delete all objects")

// deleteReport is what --json prints.
type deleteReport struct {
	Plan     string          `json:"plan"` // its ID
	Backups  []backupVerdict `json:"backups"`
	WAL      []sweep.WAL     `json:"wal"`
	Parts    int             `json:"parts"` // objects that go
	Bytes    int64           `json:"bytes"` // of parts and WAL that go
	Unpurged []int64         `json:"unpurged,omitempty"`
	Unknown  []string        `json:"unknown,omitempty"` // backups that the catalog does not know, but that have parts
	Done     bool            `json:"done"`
	Removed  int64           `json:"removed"`
	Locked   []lockedObject  `json:"locked,omitempty"`
}

type backupVerdict struct {
	Backup  string   `json:"backup"`
	Keep    bool     `json:"keep"`
	Reasons []string `json:"reasons"`
	Alone   bool     `json:"own_wal_only,omitempty"`
	Frees   int64    `json:"frees,omitempty"`
}

type lockedObject struct {
	Key   string    `json:"key"`
	Until time.Time `json:"until,omitzero"`
	Error string    `json:"error"`
}

func newReport(p *sweep.Plan) *deleteReport {
	r := &deleteReport{Plan: p.ID(), Backups: []backupVerdict{}, WAL: show.NotNil(p.WAL), Parts: p.Parts, Bytes: p.Bytes, Unknown: p.Unknown}
	for _, d := range p.Backups {
		r.Backups = append(r.Backups, backupVerdict{d.ID, d.Keep, d.Reasons, d.Alone, p.Frees[d.ID]})
	}
	for _, u := range p.Unpurged {
		r.Unpurged = append(r.Unpurged, u.N)
	}
	return r
}

// printDeletion tells what stays and what goes, and why.
func printDeletion(a *app.App, p *sweep.Plan) {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BACKUP\t\tFREES\tWHY")
	for _, d := range p.Backups {
		frees, why := "", strings.Join(d.Reasons, "; ")
		if n := p.Frees[d.ID]; n > 0 {
			frees = show.Size(n)
		}
		if x := d.Entry.Drill; x != nil && !x.OK {
			why += "; " + drillNote(x)
		}
		if d.Alone {
			why += " (with the WAL that makes it consistent, but no later WAL)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.ID, verdict(d.Keep), frees, why)
	}
	fmt.Fprintln(w, "WAL\t\tFREES\tWHY")
	for _, x := range p.WAL {
		if !x.Keep && x.Files+x.Held == 0 {
			continue // nothing is there
		}
		frees, why := "", x.Reason
		if x.Files > 0 {
			frees = show.Size(x.Bytes)
		}
		if x.Held > 0 {
			why += fmt.Sprintf(" (--hold keeps %s for now)", show.Number(x.Held, "newer file"))
		}
		last := "…"
		if x.Last != "" {
			last = x.Last[8:]
		}
		fmt.Fprintf(w, "%s .. %s\t%s\t%s\t%s\n", x.First, last, verdict(x.Keep || x.Files == 0), frees, why)
	}
	w.Flush()
	for _, u := range p.Unpurged {
		fmt.Fprintf(a.Out, "An earlier deletion (record %d of the catalog) is not finished: this command finishes it first.\n", u.N)
	}
	for _, id := range p.Unknown {
		if p.Order.Kind == retention.Everything {
			fmt.Fprintf(a.Out, "Also deleted: %s, a backup that the catalog does not list.\n", id)
			continue
		}
		fmt.Fprintf(a.Out, "Kept: parts of %s, a backup that the catalog does not list.\n", id)
	}
	if p.Empty() {
		fmt.Fprintln(a.Out, "There is nothing to delete.")
		return
	}
	fmt.Fprintf(a.Out, "%s and %s go; with WAL that frees %s\n", show.Number(complete(p), "backup"), show.Number(p.Parts, "part"), show.Size(p.Bytes))
}

// complete counts the backups that go; failed runs are none.
func complete(p *sweep.Plan) (n int) {
	for _, d := range p.Backups {
		if !d.Keep && d.Entry.Status == catalog.Complete {
			n++
		}
	}
	return n
}

func verdict(keep bool) string {
	if keep {
		return "stays"
	}
	return "GOES"
}

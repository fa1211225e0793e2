package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/test/largerepo"
)

const (
	walOfBackup = 200 // segments in the large repository for each backup
	daysWorth   = 24  // backups that a nightly run of the policy removes
)

// catalogStep is what one command took on the large repository.
type catalogStep struct {
	command, result string
	requests        largerepo.Requests
	took            time.Duration
}

// largeRun is the large repository with what was measured on it.
type largeRun struct {
	*largerepo.Repository
	backups int
	steps   []catalogStep
}

// measureCatalog calls what the commands call, in this process: 2,000,000 real objects would take hours to make, and
// what counts is the requests.
func (b *bench) measureCatalog(ctx context.Context) error {
	if b.catalogBackups == 0 || !b.wanted("pgobj zstd") {
		return nil
	}
	if b.catalogBackups <= daysWorth {
		return fmt.Errorf("-catalog-backups %d: it has to be more than %d, which a nightly run removes, or 0", b.catalogBackups, daysWorth)
	}
	b.log.Printf("a catalog of %d backups is made", b.catalogBackups)
	large, err := largerepo.New(ctx, b.catalogBackups, uint64(walOfBackup*b.catalogBackups))
	if err != nil {
		return err
	}
	l := &largeRun{Repository: large, backups: b.catalogBackups}
	nightly := fmt.Sprintf("REDUNDANCY %d", b.catalogBackups-daysWorth)
	for _, step := range []func() error{
		func() error { return l.list(ctx) },
		func() error { return l.show(ctx, "latest", nightly) },
		func() error { return l.show(ctx, "oldest", nightly) },
		func() error { return l.run(ctx, nightly) },
		func() error { return l.run(ctx, "keep daily 14 weekly 8 monthly 12") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	b.catalogSteps = l.steps
	for _, s := range l.steps {
		b.log.Printf("%d backups, %-60s %6.2f s, %5d requests", b.catalogBackups, s.command, s.took.Seconds(), s.requests.Sum())
	}
	return nil
}

// measure measures what a command does; f says what came of it.
func (l *largeRun) measure(command string, f func() (result string, err error)) error {
	s := catalogStep{command: command}
	start := time.Now()
	var err error
	s.requests, err = l.Store.Count(func() (err error) {
		s.result, err = f()
		return err
	})
	s.took = time.Since(start)
	if err != nil {
		return fmt.Errorf("%s in the large repository: %w", command, err)
	}
	l.steps = append(l.steps, s)
	return nil
}

func (l *largeRun) list(ctx context.Context) error {
	return l.measure("backup-list", func() (string, error) {
		state, err := l.Catalog.Load(ctx)
		if err != nil {
			return "", err
		}
		strangers, err := l.Catalog.Strangers(ctx, state)
		if found := len(state.Complete()); err == nil && (found != l.backups || len(strangers) > 0) {
			err = fmt.Errorf("%d of %d backups are listed, and %d strangers", found, l.backups, len(strangers))
		}
		return fmt.Sprintf("%d backups", l.backups), err
	})
}

func (l *largeRun) show(ctx context.Context, which, policy string) error {
	return l.measure("backup-show "+which, func() (string, error) {
		state, err := l.Catalog.Load(ctx)
		if err != nil {
			return "", err
		}
		e, err := state.Resolve(which)
		if err != nil {
			return "", err
		}
		described, err := l.Catalog.Backup(ctx, e)
		if err != nil {
			return "", err
		}
		trail, err := recovery.FindWAL(ctx, recovery.WALRequest{Store: l.Store, State: state, Backup: described})
		if err != nil {
			return "", err
		}
		r, err := l.request(policy)
		if err != nil {
			return "", err
		}
		w, err := sweep.Weigh(ctx, r, state, described)
		if err == nil && (w.Refers == 0 || w.Policy == nil || trail.Segments == 0 || trail.Missing != "") {
			err = fmt.Errorf("backup %s has %+v and %+v", e.ID, w, trail)
		}
		return fmt.Sprintf("%d WAL segments from it on, up to the next backup if there is one", trail.Segments), err
	})
}

// run runs a policy: the plan, and the same with --confirm, which adds the second line to the first.
func (l *largeRun) run(ctx context.Context, policy string) error {
	r, err := l.request(policy)
	if err != nil {
		return err
	}
	var plan *sweep.Plan
	files, going := 0, 0
	if err := l.measure("delete policy, "+policy, func() (string, error) {
		if plan, err = sweep.Make(ctx, r); err != nil {
			return "", err
		}
		for _, w := range plan.WAL {
			files += w.Files
		}
		if going = len(plan.Delete.Backups); going == 0 {
			return "", errors.New("nothing goes")
		}
		return fmt.Sprintf("a plan: %d backups, %d parts and %d WAL segments go", going, plan.Parts, files), nil
	}); err != nil {
		return err
	}
	return l.measure("… and --confirm", func() (string, error) {
		result, err := sweep.Execute(ctx, r, plan)
		// A backup is its backup.json and its manifest.
		if want := int64(2*going + plan.Parts + files); err == nil && (result.Removed != want || len(result.Kept) > 0) {
			err = fmt.Errorf("%d objects are removed and %d kept, want %d and none", result.Removed, len(result.Kept), want)
		}
		return fmt.Sprintf("%d objects are removed", result.Removed), err
	})
}

// request has the defaults of delete policy.
func (l *largeRun) request(policy string) (sweep.Request, error) {
	p, err := retention.ParsePolicy(policy)
	return sweep.Request{Store: l.Store, Catalog: l.Catalog, Order: retention.Order{Kind: retention.ByPolicy, Policy: p, Minimum: 1, Running: 72 * time.Hour}, Hold: 24 * time.Hour,
		Now: l.Now, Log: slog.New(slog.DiscardHandler)}, err
}

func (b *bench) catalogText(w *strings.Builder) {
	if len(b.catalogSteps) == 0 {
		return
	}
	fmt.Fprintf(w, "## A large repository\n\n%d backups and %d WAL objects, one run. What --confirm takes comes on top of the plan.\n\n"+
		"| command | result | get | stat | list | put | delete | requests | s |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n", b.catalogBackups, walOfBackup*b.catalogBackups)
	for _, s := range b.catalogSteps {
		r := s.requests
		fmt.Fprintf(w, "| %s | %s | %d | %d | %d | %d | %d | %d | %.2f |\n", s.command, s.result, r.Gets, r.Stats, r.Lists, r.Puts, r.Deletes, r.Sum(), s.took.Seconds())
	}
	w.WriteString("\n")
}

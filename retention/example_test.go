package retention_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/walstore/segment"
)

func ExampleParsePolicy() {
	p, err := retention.ParsePolicy("REDUNDANCY 3, KEEP DAILY 14 WEEKLY 8")
	fmt.Println(p.Redundancy, p.Daily, p.Weekly, err)
	_, err = retention.ParsePolicy("REDUNDANCY")
	fmt.Println(err != nil)
	// Output:
	// 3 14 8 <nil>
	// true
}

// Four nights, of which a policy keeps two: a decision is a pure function of the history, and each has its reasons.
func ExampleDecide() {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	state := new(catalog.State)
	for night := range 4 {
		at, lsn := now.AddDate(0, 0, night-4), segment.LSN(night+1)<<24
		id := fmt.Sprintf("night-%d", night+1)
		state.Entries = append(state.Entries, &catalog.Entry{ID: id, Begun: at, Status: catalog.Complete,
			Begin: catalog.Begin{Backup: id, SystemID: 7, Timeline: 1, LSN: lsn},
			Commit: &catalog.Commit{Backup: id, Summary: catalog.Summary{SystemID: 7, Timeline: 1, Started: at, StartLSN: lsn,
				Consistent: at.Add(time.Hour), Finished: at.Add(time.Hour), StopLSN: lsn + 1<<20}}})
		state.Committed = append(state.Committed, id)
	}
	policy, err := retention.ParsePolicy("REDUNDANCY 2")
	if err != nil {
		fmt.Println(err)
		return
	}
	plan, err := retention.Decide(retention.Order{Kind: retention.ByPolicy, Policy: policy, Minimum: 1}, retention.History{State: state}, now)
	for _, d := range plan.Backups {
		fmt.Println(d.ID, d.Keep, strings.Join(d.Reasons, "; "))
	}
	fmt.Println(err)
	// Output:
	// night-1 false no rule keeps it
	// night-2 false no rule keeps it
	// night-3 true redundancy 2: number 2
	// night-4 true redundancy 2: number 1; the newest good backup
	// <nil>
}

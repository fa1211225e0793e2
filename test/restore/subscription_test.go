package restore

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestSubscriptionsOfACopyDoNotRun: a restored copy of a subscriber, opened while the original is away, takes nothing
// from the original's replication slot.
func TestSubscriptionsOfACopyDoNotRun(t *testing.T) {
	t.Parallel()
	publisher := pgtest.Start(t, pgtest.Options{Template: true, Conf: []string{"wal_level = logical"}})
	publisher.Exec(t, `CREATE TABLE fed (n int PRIMARY KEY)`)
	publisher.Exec(t, `CREATE PUBLICATION everything FOR ALL TABLES`)
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	s.Exec(t, `CREATE TABLE fed (n int PRIMARY KEY)`)
	s.Exec(t, `CREATE SUBSCRIPTION "the feed" CONNECTION '`+strings.ReplaceAll(publisher.DSN("postgres"), "'", "''")+`' PUBLICATION everything WITH (slot_name = feed)`)
	publisher.Exec(t, `INSERT INTO fed VALUES (1)`)
	s.Eventually(t, `SELECT count(*) FROM fed`, "1")
	s.Backup(t)
	s.Archived(t)

	const says = `"the feed" in database "postgres"`
	elsewhere := filepath.Join(testenv.Dir(t), "data")
	for flag, text := range map[string]string{"--plan": "do not run", "--keep-archiving": "as soon as"} {
		if o := s.Must(t, "backup-fetch", elsewhere, "--plan", flag); !strings.Contains(o.Out, text) || !strings.Contains(o.Out, says) {
			t.Errorf("%s says nothing of the subscription: %v", flag, o)
		}
	}
	dir := s.Fetch(t)
	s.Stop(t, "fast") // its slot is free
	publisher.Exec(t, `INSERT INTO fed VALUES (2)`)
	c := s.Spawn(t, dir)
	c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	if got := c.SQL(t, `SELECT count(*) FILTER (WHERE backend_type ~ 'logical replication'), (SELECT count(*) FROM fed) FROM pg_stat_activity`); got != "0|1" {
		t.Errorf("the copy runs its subscription (workers, rows): %s", got)
	}
	s.Start(t)
	s.Eventually(t, `SELECT count(*) FROM fed`, "2") // it has lost nothing
	if got := c.SQL(t, `SELECT count(*) FROM fed`); got != "1" {
		t.Errorf("the copy has %s rows", got)
	}
}

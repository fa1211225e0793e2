package cli

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestManyServers: a bucket with many servers is listed with few requests for each, however much they have, and one
// whose catalog is damaged is named among them.
func TestManyServers(t *testing.T) {
	servers := 40
	if site.Torture() {
		servers = 500
	}
	s3 := s3server.ForTest(t, s3server.MinIO)
	proxy := faultproxy.ForTest(t, s3.Endpoint)
	st := site.S3Store(t, s3, "minio")
	i := slices.IndexFunc(st.Settings, func(kv string) bool { return strings.HasPrefix(kv, "PGOBJ_S3_ENDPOINT=") })
	st.Settings[i] = "PGOBJ_S3_ENDPOINT=" + proxy.URL
	manyServers(t, s3, servers)

	s := &site.Site{Store: st, Pgobj: testenv.Pgobj(t)}
	begun := time.Now()
	list := shows[[]struct {
		Server, Last_backup string
		Backups             int
		Problems            []string
	}](t, s, "server-list")
	requests := proxy.Count(faultproxy.Always)
	t.Logf("%d servers: %d requests, %s", servers, requests, time.Since(begun).Round(time.Millisecond))
	if len(list) != servers {
		t.Fatalf("%d servers of %d: %+v", len(list), servers, list)
	}
	for i, x := range list {
		damaged := i == 7
		if x.Server != fmt.Sprintf("prod-db-%03d", i) || !damaged && (x.Backups != 2 || len(x.Problems) > 0) || damaged && len(x.Problems) != 1 {
			t.Errorf("number %d is %+v", i, x)
		}
	}
	// One that finds the server, two listings, five records, and the question whether there is one more.
	if most := 10*servers + 10; requests > most {
		t.Errorf("%d servers took %d requests, want at most %d", servers, requests, most)
	}
}

// manyServers makes servers with two backups each, as far as the catalog goes. The catalog of number 7 is damaged.
func manyServers(t *testing.T, s3 *s3server.Server, n int) {
	t.Helper()
	for _, kv := range s3.Env() {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	root, err := connect.Open(connect.Config{URL: s3.URL("team/pg"), Endpoint: s3.Endpoint, PathStyle: "true", Driver: "minio"})
	if err != nil {
		t.Fatal(err)
	}
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			store := storage.Sub(root, fmt.Sprintf("prod-db-%03d", i))
			if i == 7 {
				const junk = `{"version":1,"n":1,"type":"server"}`
				return store.Put(ctx, "catalog/log/0000000001.json", strings.NewReader(junk), int64(len(junk)))
			}
			c := catalog.New(store, "test", time.Now)
			records := []catalog.Record{{Type: "server", Server: &catalog.Server{SystemID: uint64(i + 1), PGVersion: 160001, SegmentSize: 16 << 20}}}
			for _, id := range []string{"20261116T010000Z-0001", "20261117T010000Z-0002"} {
				records = append(records, catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: id, SystemID: uint64(i + 1)}},
					catalog.Record{Type: "commit", Commit: &catalog.Commit{Backup: id, Summary: catalog.Summary{SystemID: uint64(i + 1), Finished: time.Now(),
						FirstWAL: "000000010000000000000001", LastWAL: "000000010000000000000001"}}})
				if err := store.Put(ctx, "parts/"+id+"/00001.tar.zst", bytes.NewReader(nil), 0); err != nil {
					return err
				}
			}
			state := &catalog.State{}
			for _, r := range records {
				var err error
				if state, err = c.Append(ctx, state, func(*catalog.State) (catalog.Record, error) { return r, nil }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

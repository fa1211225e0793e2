package site

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/push"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/test/faultproxy"
)

// KindOf names a request by what it does, for people and for counting.
func KindOf(r faultproxy.Request) string {
	switch {
	case r.Method == "GET" && strings.Contains(r.Query, "list-type"):
		return "list"
	case strings.Contains(r.Path, "/catalog/log/"):
		return r.Method + " record"
	case strings.HasSuffix(r.Path, "/backup.json"):
		return r.Method + " backup.json"
	case strings.Contains(r.Path, "/manifest"):
		return r.Method + " manifest"
	case strings.Contains(r.Path, "/parts/"):
		return r.Method + " part"
	}
	return r.Method + " other"
}

func DescribeRequests(p *faultproxy.Proxy) string {
	var b strings.Builder
	for _, r := range p.Requests() {
		fmt.Fprintf(&b, "\n%d %s %s?%s %s", r.N, r.Method, r.Path, r.Query, r.Fault)
	}
	return b.String()
}

// WasHit says whether a fault was applied.
func WasHit(p *faultproxy.Proxy) bool {
	return p.Count(func(r faultproxy.Request) bool { return r.Fault != "" }) > 0
}

// PushKinds runs a backup-push that nothing happens to, and returns the kinds of requests that it makes.
func (r *FaultRig) PushKinds(t *testing.T, p *faultproxy.Proxy) []string {
	t.Helper()
	if o := Execute(t, r.Command(ViaProxy(p), "backup-push", "-j2", "--wal-timeout=10m"), nil); o.Code != 0 {
		t.Fatal(o)
	}
	var kinds []string
	for _, q := range p.Requests() {
		if k := KindOf(q); !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	for _, k := range []string{"list", "GET record", "PUT record", "PUT part", "PUT manifest", "PUT backup.json"} {
		if !slices.Contains(kinds, k) {
			t.Fatalf("a backup makes no %s; it makes %v", k, kinds)
		}
	}
	return kinds
}

// ViaProxy lets the commands of a rig go through p. The server's WAL does not.
func ViaProxy(p *faultproxy.Proxy) []string { return []string{"PGOBJ_S3_ENDPOINT=" + p.URL} }

// Touch changes some pages, not what proof answers: so that every backup has something to store, and something
// to reuse.
func (r *FaultRig) Touch(t *testing.T) {
	t.Helper()
	r.Cluster.Exec(t, `UPDATE proof SET sum = sum WHERE i % 500 = 7`)
}

// Survived checks a repository after a push that was killed, and says whether the backup is in it.
func (r *FaultRig) Survived(t *testing.T, base Snapshot, old, want string, restore bool) (listed bool) {
	t.Helper()
	base.Unchanged(t)
	ids := r.List(t)
	if len(ids) == 0 || ids[0] != old || len(ids) > 2 {
		t.Errorf("backup-list shows %v; %s was there before", ids, old)
		return false
	}
	if len(ids) == 2 {
		r.CheckRestore(t, ids[1], want)
	}
	o := r.Run(t, "backup-push", "-j2", "--wal-timeout=10m")
	now := r.List(t)
	if o.Code != 0 || len(now) != len(ids)+1 || !slices.Equal(now[:len(ids)], ids) {
		t.Errorf("the next run: the list was %v and is %v, %v", ids, now, o)
		return len(ids) == 2
	}
	if restore {
		r.CheckRestore(t, now[len(ids)], want)
	}
	base.Unchanged(t)
	return len(ids) == 2
}

// PushInProcess takes a backup of the rig's cluster into a store, with little patience.
func (r *FaultRig) PushInProcess(t *testing.T, s storage.Store) error {
	t.Helper()
	return r.PushInto(t, retry.New(s, retry.Policy{Budget: 20 * time.Millisecond, FirstWait: 5 * time.Millisecond}, slog.New(slog.DiscardHandler)))
}

// PushInto takes a backup of the rig's cluster into a store that has retries already.
func (r *FaultRig) PushInto(t *testing.T, s storage.Store) error {
	t.Helper()
	s = storage.Sub(s, "main")
	session, err := server.Connect(t.Context(), r.Cluster.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(t.Context())
	_, err = push.Push(t.Context(), push.Request{
		Store: s, Catalog: catalog.New(s, "test", time.Now), Session: session, Codec: codec.Default, Workers: 2,
		WALTimeout: time.Minute, Tool: "test", Now: time.Now, Progress: &backup.Progress{}, Log: slog.New(slog.DiscardHandler),
	})
	return err
}

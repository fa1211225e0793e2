package wal

import (
	"regexp"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/site"
)

// How long wal-fetch waits for a storage in trouble is said once, by --retry-for: what tries again in the storage's client and
// what tries the whole fetch again share it.
func TestOnePatience(t *testing.T) {
	t.Parallel()
	st := site.Store{Settings: []string{"PGOBJ_STORAGE=s3://bucket/p", "PGOBJ_S3_ENDPOINT=http://127.0.0.1:1", "AWS_REGION=r"},
		Credentials: []string{"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=y"}}
	r := site.NewWALRig(t, st)
	const patience = 4 * time.Second
	o, _ := r.Fetch(t, site.Wal1, "--retry-for="+patience.String())
	if o.Code != 255 {
		t.Fatal(o)
	}
	waits, sum := regexp.MustCompile(`msg="(?:storage operation failed, )?trying again".* (?:wait|in)=(\S+)`).FindAllStringSubmatch(o.Err, -1), time.Duration(0)
	for _, w := range waits {
		d, err := time.ParseDuration(w[1])
		site.Must(t, err)
		sum += d
	}
	if len(waits) < 3 || sum > patience {
		t.Errorf("%d waits are %v of %v: %v", len(waits), sum, patience, o)
	}
}

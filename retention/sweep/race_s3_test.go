package sweep_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/storage/retry"
	fp "github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/s3server"
)

// TestRacesOnS3 is TestRaces on a real server behind a proxy that refuses, loses answers and breaks connections.
func TestRacesOnS3(t *testing.T) {
	schedules := uint64(6)
	if os.Getenv("PGOBJ_TORTURE") != "" {
		schedules = 300
	}
	server := s3server.ForTest(t, s3server.MinIO)
	proxy := fp.ForTest(t, server.Endpoint)
	s, full := seeded(t, 3)
	var told outcomes
	for seed := range schedules {
		prefix := server.URL(fmt.Sprint("race", seed))
		copyAll(t, full, open(t, server, server.Endpoint, prefix))
		proxy.Reset()
		proxy.On(fp.Chance(3*seed, 0.02), fp.Fail(http.StatusServiceUnavailable, "SlowDown"))
		proxy.On(fp.Chance(3*seed+1, 0.02), fp.DropResponse())
		proxy.On(fp.Chance(3*seed+2, 0.02), fp.Reset(0))
		race(t, s, open(t, server, proxy.URL, prefix), 1000+seed, &told)
		if t.Failed() {
			t.Fatalf("schedule %d", seed)
		}
	}
	t.Logf("%+v, %d requests", told.count, len(proxy.Requests()))
}

func open(t *testing.T, server *s3server.Server, endpoint, prefix string) storage.Store {
	t.Helper()
	store, err := connect.Open(connect.Config{URL: prefix, Endpoint: endpoint, Region: server.Region,
		Retry: retry.Policy{FirstWait: time.Millisecond, MaxWait: 20 * time.Millisecond},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: server.AccessKey, SecretAccessKey: server.SecretKey}, nil
		})})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

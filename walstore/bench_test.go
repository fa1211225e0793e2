package walstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/walstore"
)

// BenchmarkCompress compresses the WAL segment named by PGOBJ_BENCH_SEGMENT, or else a made-up one.
func BenchmarkCompress(b *testing.B) {
	path := os.Getenv("PGOBJ_BENCH_SEGMENT")
	if path == "" {
		path = filepath.Join(b.TempDir(), seg1)
		if err := os.WriteFile(path, wal(seg1, sysid, 16<<20, 1), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(16 << 20)
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		src, err := walstore.Inspect(f, filepath.Base(path), nil)
		if err != nil {
			b.Fatal(err)
		}
		made, err := walstore.Compress(b.Context(), walstore.PushRequest{}, src)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(made[0].Body.Size), "stored")
		f.Close()
	}
}

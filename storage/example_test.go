package storage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
)

// An object is never replaced, and an error says what may be concluded from it.
func ExampleStore() {
	ctx := context.Background()
	s := storage.Sub(mem.New(), "main")
	put := func(content string) error {
		return s.Put(ctx, "wal/1", strings.NewReader(content), int64(len(content)))
	}
	fmt.Println("first:", put("content"))
	fmt.Println("second, is taken:", errors.Is(put("other"), storage.ErrExists))
	got, err := storage.ReadAll(ctx, s, "wal/1", 1<<20)
	fmt.Printf("read: %s, %v\n", got, err)
	_, err = s.Stat(ctx, "wal/2")
	fmt.Println("absent:", storage.KindOf(err) == storage.KindNotFound)
	for info, err := range s.List(ctx, "wal/", "") {
		fmt.Println("listed:", info.Key, info.Size, err)
	}
	// Output:
	// first: <nil>
	// second, is taken: true
	// read: content, <nil>
	// absent: true
	// listed: wal/1 7 <nil>
}

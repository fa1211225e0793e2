package storagetest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/pgobj/pgobj/storage"
)

func deletes(t *testing.T, s storage.Store) {
	PutBytes(t, s, "d/a", []byte("x"))
	PutBytes(t, s, "d/b", []byte("y"))
	for _, key := range []string{"d/a", "d/a", "never/was", "d/a/below"} {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	wantKeys(t, s, "", "", "d/b")
	if err := s.Delete(t.Context(), "d"); err != nil {
		t.Error(err)
	}
	wantKeys(t, s, "", "", "d/b")
}

// deleteMany: more than one request takes, those that are not there among them, and no others.
func deleteMany(t *testing.T, s storage.Store) {
	all := manyKeys(t, s)
	left := []string{all[0], all[500], all[1049]}
	doomed := slices.DeleteFunc(slices.Clone(all), func(key string) bool { return slices.Contains(left, key) })
	doomed = append(doomed, "never/was", "many")
	if err := s.Delete(t.Context(), doomed...); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, s, "", "", left...)
	if err := s.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Delete(ctx, left...); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	wantKind(t, s.Delete(t.Context(), "a/../b", "x//y"), storage.KindOther)
	wantKeys(t, s, "", "", left...)
}

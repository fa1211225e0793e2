package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/pgobj/pgobj/storage"
)

// page is how many keys a store returns at once: those after the first cost nothing.
const page = 1000

// CheckServer says why a name cannot be a server's. It is one directory below the storage: a server that lay within
// another one would be listed, counted and deleted with it or not at all, and two clusters would seem to be one.
func CheckServer(name string) error {
	if within, own, nested := cutLast(name, "/"); nested && storage.CheckKey(name) == nil {
		return fmt.Errorf("it has a slash, and one server cannot be inside another: two clusters need two names, such as %s-%s\nTo read what was stored under this name, use server %s of the storage whose URL ends with /%s", strings.ReplaceAll(within, "/", "-"), own, own, within)
	}
	if strings.Contains(name, "/") || storage.CheckKey(name) != nil {
		return errors.New("use 1 to 255 of the characters A-Z a-z 0-9 . _ - (not . and not .. alone)")
	}
	return nil
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// Servers yields the names of the servers in a storage (not in one server's directory), in the order of their keys. It
// costs at most one listing of one page for each, however much a server has. Those of a storage that begins deeper, with
// another URL, are not among them.
func Servers(ctx context.Context, root storage.Store) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		seen, after := map[string]bool{}, ""
		for more := true; more; {
			more = false
			n, last := 0, ""
			for info, err := range root.List(ctx, "", after) {
				if err != nil {
					yield("", fmt.Errorf("list servers: %w", err))
					return
				}
				last = serverOf(info.Key)
				if last != "" && !seen[last] && CheckServer(last) == nil {
					seen[last] = true
					if !yield(last, nil) {
						return
					}
				}
				// The rest of a page is looked at; the next one would rather be more of the same server, so its
				// directory is passed over: '0' is the character after '/'.
				if n++; n == page {
					more, after = true, max(info.Key, last+"0")
					break
				}
			}
		}
	}
}

// serverOf is the server that an object belongs to, by the directories that every server has; empty for a foreign one.
func serverOf(key string) string {
	segments := strings.Split(key, "/")
	for i := 1; i < len(segments)-2; i++ {
		switch next := segments[i+1]; segments[i] {
		case "backups", "parts":
		case "catalog":
			if next != "log" && next != "checkpoints" {
				continue
			}
		case "wal":
			if strings.Trim(next, "0123456789") != "" {
				continue
			}
		default:
			continue
		}
		return strings.Join(segments[:i], "/")
	}
	return ""
}

// Exists says whether a server's directory has anything that a server has.
func Exists(ctx context.Context, s storage.Store) (bool, error) {
	for _, directory := range []string{"catalog/", "wal/", "parts/", "backups/"} {
		for _, err := range s.List(ctx, directory, "") {
			if err != nil {
				return false, fmt.Errorf("look for the server: %w", err)
			}
			return true, nil
		}
	}
	return false, nil
}

// Usage is how many bytes a server occupies in the storage.
type Usage struct {
	Parts   int64 `json:"parts"`
	WAL     int64 `json:"wal"`
	Catalog int64 `json:"catalog"` // the log, its checkpoints and what describes the backups
	Total   int64 `json:"total"`
	Objects int64 `json:"objects"`
}

// Used lists all that a server has, a request for every thousand objects.
func Used(ctx context.Context, s storage.Store) (Usage, error) {
	var u Usage
	for info, err := range s.List(ctx, "", "") {
		if err != nil {
			return u, fmt.Errorf("list what the server has: %w", err)
		}
		switch directory, _, _ := strings.Cut(info.Key, "/"); directory {
		case "parts":
			u.Parts += info.Size
		case "wal":
			u.WAL += info.Size
		case "catalog", "backups":
			u.Catalog += info.Size
		default:
			continue // not ours
		}
		u.Objects++
		u.Total += info.Size
	}
	return u, nil
}

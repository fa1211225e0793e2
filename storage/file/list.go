package file

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/storage"
)

// List walks the directories in the order of the full keys, holding the names of one directory a level.
func (s *store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		root, err := s.open(ctx, "list", prefix)
		if err != nil {
			yield(storage.Info{}, err)
			return
		}
		defer root.Close()
		w := walk{s: s, ctx: ctx, root: root, prefix: prefix, startAfter: startAfter, yield: yield}
		dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
		if dir != "" && storage.CheckKey(strings.TrimSuffix(dir, "/")) != nil {
			return // no object can be there, and the name may leave the directory
		}
		w.directory(dir)
	}
}

type walk struct {
	s                  *store
	ctx                context.Context
	root               *os.Root
	prefix, startAfter string
	yield              func(storage.Info, error) bool
}

// directory yields what is in dir ("" or ending at a slash), and reports whether to go on.
func (w *walk) directory(dir string) bool {
	if w.ctx.Err() != nil {
		return w.stop(w.s.fail("list", w.prefix, storage.KindTransient, context.Cause(w.ctx)))
	}
	keys, err := w.keys(dir)
	if errors.Is(err, fs.ErrNotExist) && dir != "" || errors.Is(err, errNotDir) {
		return true // nothing below this prefix, or removed since
	} else if err != nil {
		return w.stop(w.s.fault("list", dir, err))
	}
	for _, key := range keys {
		if w.ctx.Err() != nil {
			return w.stop(w.s.fail("list", w.prefix, storage.KindTransient, context.Cause(w.ctx)))
		}
		if strings.HasSuffix(key, "/") {
			if !w.directory(key) {
				return false
			}
			continue
		}
		info, err := w.root.Stat(key)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue
		} else if err != nil {
			return w.stop(w.s.fault("list", key, err))
		}
		if !w.yield(storage.Info{Key: key, Size: info.Size(), Created: info.ModTime()}, nil) {
			return false
		}
	}
	return true
}

func (w *walk) stop(err error) bool {
	w.yield(storage.Info{}, err)
	return false
}

// tempAge is how long nothing was written to a temporary file before its Put is taken for dead. Should it live after all,
// it fails without harm.
const tempAge = 24 * time.Hour

// expire removes a temporary file that a Put left behind. A listing is only told of what it was asked for, so a directory
// that cannot be written to is no matter here.
func (w *walk) expire(key string, e fs.DirEntry) {
	if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > tempAge {
		_ = w.root.Remove(key)
	}
}

// keys returns the keys in dir that are asked for, and the directories in it that may hold such keys, which
// end at a slash. They come in byte order of full keys, in which directory "a/" is after file "a.b".
func (w *walk) keys(dir string) ([]string, error) {
	d, err := w.root.Open(path.Clean("./" + dir))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, e := range entries {
		key := dir + e.Name()
		if strings.HasPrefix(e.Name(), tempName) {
			w.expire(key, e)
		}
		if storage.CheckKey(key) != nil { // temp files, and what people leave about
			continue
		}
		if e.IsDir() {
			key += "/"
			// Every key below begins with key: asked for at all, and not all before startAfter?
			if (strings.HasPrefix(key, w.prefix) || strings.HasPrefix(w.prefix, key)) &&
				(key > w.startAfter || strings.HasPrefix(w.startAfter, key)) {
				keys = append(keys, key)
			}
		} else if strings.HasPrefix(key, w.prefix) && key > w.startAfter {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys, nil
}

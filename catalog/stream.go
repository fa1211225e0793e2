package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/pgobj/pgobj/storage"
)

// streamed is an object that is read as it comes: what has been read adds up to its hash, and no object's size is
// trusted.
type streamed struct {
	body io.Reader
	hash hash.Hash
	left int64 // bytes that it may still have
	err  error // of the storage
}

func (s *streamed) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	s.hash.Write(p[:n])
	if s.left -= int64(n); s.left < 0 {
		err = fmt.Errorf("%w (limit %d bytes)", storage.ErrTooLarge, maxBackup)
	}
	if err != io.EOF {
		s.err = err
	}
	return n, err
}

// readBackup reads a backup.json and returns its hash, too. Its parts go to each, one by one: a large database has a
// hundred megabytes of them, and of many backups they would be gigabytes.
func (c *Catalog) readBackup(ctx context.Context, id string, each func(Part)) (*Backup, string, error) {
	key := BackupKey(id)
	s := &streamed{hash: sha256.New(), left: maxBackup}
	body, err := c.store.Get(ctx, key, storage.All)
	var data []byte
	if s.err = err; err == nil {
		defer body.Close()
		s.body = body
		data, err = withoutParts(s, each)
	}
	switch {
	case errors.Is(s.err, storage.ErrNotFound):
		return nil, "", fmt.Errorf("%w: %s is missing, but the catalog's log says that the backup is complete", ErrDamaged, key)
	case s.err != nil:
		return nil, "", fmt.Errorf("read description of backup %s: %w", id, s.err)
	}
	var b Backup
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	switch {
	case errors.Is(err, ErrNewer):
		return nil, "", fmt.Errorf("%s: %w", key, err)
	case err != nil:
		return nil, "", fmt.Errorf("%w: %s: %v", ErrDamaged, key, err)
	case b.Format != backupFormat || b.Version != Version || b.ID != id:
		return nil, "", fmt.Errorf("%w: %s describes something else (%.100s %d %.100q)", ErrDamaged, key, b.Format, b.Version, b.ID)
	}
	return &b, hex.EncodeToString(s.hash.Sum(nil)), nil
}

// withoutParts reads a backup.json to its end, and returns it without the parts. As in decode, a newer version is no
// damage: its number stands before all that may not fit the types of this one.
func withoutParts(r io.Reader, each func(Part)) ([]byte, error) {
	d := json.NewDecoder(r)
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("it is not a JSON object"), err)
	}
	var rest object
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		if name == "parts" {
			err = eachPart(d, each)
		} else {
			err = rest.copy(name, d)
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.Join(errors.New("there is data after its end"), err)
	}
	return rest.end(), nil
}

// eachPart reads a list of parts, or null.
func eachPart(d *json.Decoder, each func(Part)) error {
	if t, err := d.Token(); err != nil || t == nil {
		return err
	} else if t != json.Delim('[') {
		return errors.New("its parts are not a list")
	}
	for d.More() {
		var p Part
		if err := d.Decode(&p); err != nil {
			return err
		}
		each(p)
	}
	_, err := d.Token()
	return err
}

// object is the beginning of a JSON object.
type object []byte

// copy adds a member, whose value comes next.
func (o *object) copy(name json.Token, d *json.Decoder) error {
	key, err := json.Marshal(name)
	var value json.RawMessage
	if err == nil {
		err = d.Decode(&value)
	}
	if err == nil && name == "version" {
		err = decode(fmt.Appendf(nil, `{"version":%s}`, value), &struct{}{})
	}
	*o = append(append(append(append(*o, ','), key...), ':'), value...)
	return err
}

// end is the whole object.
func (o object) end() []byte {
	if len(o) == 0 {
		return []byte("{}")
	}
	return slices.Concat([]byte{'{'}, o[1:], []byte{'}'})
}

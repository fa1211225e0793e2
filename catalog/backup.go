package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Backup is backup.json: what a backup is, and which parts it refers to.
type Backup struct {
	Format  string `json:"format"` // "pgobj backup"
	Version int    `json:"version"`
	ID      string `json:"id"`
	Summary
	PGVersionText  string         `json:"pg_version_text"`
	CatalogVersion uint32         `json:"catalog_version"` // of pg_control; tablespace directories carry it
	SegmentSize    int64          `json:"wal_segment_size"`
	Checksums      bool           `json:"data_checksums"`
	PGDATA         string         `json:"pgdata"`
	Host           string         `json:"host"`
	Owner          string         `json:"owner"` // of PGDATA, as USER:GROUP
	Tablespaces    []Tablespace   `json:"tablespaces,omitempty"`
	Databases      []Database     `json:"databases,omitempty"`
	Subscriptions  []Subscription `json:"subscriptions,omitempty"`
	ConfigFiles    []ConfigFile   `json:"config_files,omitempty"` // those outside PGDATA, "beside the data"
	ConfigFile     string         `json:"config_file,omitempty"`  // the one of them that the server was started with
	ConfigDirs     []ConfigDir    `json:"config_dirs,omitempty"`  // those outside PGDATA that include_dir names, also when they are empty
	Damaged        []Damaged      `json:"damaged,omitempty"`
	Warnings       []string       `json:"warnings,omitempty"`
	Compression    string         `json:"compression"`
	Manifest       Object         `json:"manifest"`
	Parts          []Part         `json:"parts"`
	Tool           string         `json:"tool"` // version of pgobj
}

// Offline says that the backup was taken of a stopped server: it is complete in itself, and its server starts without a
// recovery.
func (b *Backup) Offline() bool { return b.From == "offline" }

// Tablespace is one that lies outside of PGDATA's directory tree or was linked into it.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Name     string `json:"name"`
	Location string `json:"location,omitempty"` // none for one in place
}

// Database is one that the server had when the backup began.
type Database struct {
	OID      uint32 `json:"oid"`
	Name     string `json:"name"`
	Template bool   `json:"template,omitempty"`
}

// Subscription is one, to logical replication, that the server had when the backup began.
type Subscription struct {
	Database string `json:"database"`
	Name     string `json:"name"`
}

// ConfigFile is a configuration file from outside PGDATA (content in base64).
type ConfigFile struct {
	Path    string `json:"path"`
	Content []byte `json:"content"`
	Mode    string `json:"mode,omitempty"` // in octal, such as "0640"; none in backups of older versions
}

// ConfigDir is a directory with such files.
type ConfigDir struct {
	Path string `json:"path"`
	Mode string `json:"mode"`
}

// Damaged lists pages whose checksum does not hold.
type Damaged struct {
	Path   string   `json:"path"`
	Blocks []uint32 `json:"blocks"` // numbers within the relation's fork
}

// Object is a stored object with its hash.
type Object struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Part is one that the backup refers to.
type Part struct {
	Name  string `json:"name"` // BACKUP/NUMBER.EXT
	Size  int64  `json:"size"`
	Index string `json:"index_sha256"` // of the stored frame of its index
	Raw   int64  `json:"raw"`          // bytes of content in it
	Live  int64  `json:"live"`         // of those, how many this backup refers to
}

const backupFormat = "pgobj backup"

// ManifestKey is the object that lists the files of a backup.
func ManifestKey(id string) string { return "backups/" + id + "/manifest.jsonl.zst" }

// BackupKey is the object that describes a backup.
func BackupKey(id string) string { return "backups/" + id + "/backup.json" }

// PutBackup stores backup.json and returns its hash, for the commit.
func (c *Catalog) PutBackup(ctx context.Context, b *Backup) (string, error) {
	b.Format, b.Version = backupFormat, Version
	data, err := json.MarshalIndent(b, "", " ")
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", BackupKey(b.ID), err)
	}
	if err := storage.PutOwn(ctx, c.store, BackupKey(b.ID), bytes.NewReader(data), int64(len(data))); err != nil {
		return "", fmt.Errorf("write description of backup %s: %w", b.ID, err)
	}
	return sum(data), nil
}

// Backup reads the backup.json of a complete backup and checks it against the log.
func (c *Catalog) Backup(ctx context.Context, e *Entry) (*Backup, error) {
	var parts []Part
	b, err := c.Parts(ctx, e, func(p Part) { parts = append(parts, p) })
	if err == nil {
		b.Parts = parts
	}
	return b, err
}

// Parts is Backup for those who need not hold all parts at the same time: what it returns has none, each gets them.
// They are as they should be only if there is no error.
func (c *Catalog) Parts(ctx context.Context, e *Entry, each func(Part)) (*Backup, error) {
	if e.Commit == nil {
		return nil, fmt.Errorf("backup %s was never committed", e.ID)
	}
	b, hash, err := c.readBackup(ctx, e.ID, each)
	if err != nil {
		return nil, err
	}
	if hash != e.Commit.SHA256 {
		return nil, fmt.Errorf("%w: %s: its hash does not match the catalog's log", ErrDamaged, BackupKey(e.ID))
	}
	if err := b.check(&e.Commit.Summary); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, BackupKey(e.ID), err)
	}
	return b, nil
}

// check refuses what pgobj never writes, and what the log tells otherwise: a restore computes with it.
func (b *Backup) check(s *Summary) error {
	switch {
	case b.PGVersion < 100000 || b.PGVersion >= 1000000:
		return fmt.Errorf("PostgreSQL's version cannot be %d", b.PGVersion)
	case !segment.Size(b.SegmentSize).Valid():
		return fmt.Errorf("WAL segments cannot have %d bytes", b.SegmentSize)
	case b.Timeline == 0 || b.StartLSN > b.StopLSN:
		return fmt.Errorf("timeline %d from %s to %s is impossible", b.Timeline, b.StartLSN, b.StopLSN)
	case b.Size < 0 || b.Files < 0:
		return fmt.Errorf("%d bytes in %d files are impossible", b.Size, b.Files)
	case b.SystemID != s.SystemID || b.Timeline != s.Timeline || b.StartLSN != s.StartLSN || b.StopLSN != s.StopLSN:
		return errors.New("it contradicts the catalog's log")
	}
	return nil
}

// Described is what a listing finds of a backup, complete or not. Which backups exist, the log says.
type Described struct {
	ID             string
	JSON, Manifest bool
}

// Described lists the backups that have a manifest or a backup.json, in the order of their ids, from those on that
// come after the given one.
func (c *Catalog) Described(ctx context.Context, after string) ([]Described, error) {
	if after != "" {
		after = "backups/" + after + "0" // '0' is the character after '/'
	}
	var found []Described
	for info, err := range c.store.List(ctx, "backups/", after) {
		if err != nil {
			return nil, fmt.Errorf("list backups: %w", err)
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(info.Key, "backups/"), "/")
		d := Described{ID: id, JSON: info.Key == BackupKey(id), Manifest: info.Key == ManifestKey(id)}
		if n := len(found); n > 0 && found[n-1].ID == id {
			found[n-1].JSON, found[n-1].Manifest = found[n-1].JSON || d.JSON, found[n-1].Manifest || d.Manifest
		} else if d.JSON || d.Manifest {
			found = append(found, d)
		}
	}
	return found, nil
}

// NewID makes a backup's id from its start time and two random bytes.
func NewID(start time.Time, random [2]byte) string {
	return fmt.Sprintf("%s-%x", start.UTC().Format("20060102T150405Z"), random)
}

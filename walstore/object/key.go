package object

import (
	"crypto/sha256"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/walstore/segment"
)

const (
	NoteOfParameters  = "parameters"
	NoteOfDirectories = "directories"
)

func NoteKey(sysid uint64, name, kind string, body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf("%s%s.%X.%s", TimelineDir(sysid, name[:8]), name, sum[:8], kind)
}

// ParseNote is the object of a note's key.
func ParseNote(sysid uint64, key string) (Object, bool) {
	dir, base := path.Split(key)
	p := strings.Split(base, ".")
	if len(p) != 3 || p[2] != NoteOfParameters && p[2] != NoteOfDirectories || len(p[1]) != 16 ||
		segment.Classify(p[0]) != segment.Full || TimelineDir(sysid, p[0][:8]) != dir {
		return Object{}, false
	}
	return Object{Key: key, SystemID: sysid, Name: p[0], Type: segment.Noted, Note: p[2]}, true
}

const LostSuffix = ".lost"

func LostKey(sysid uint64, first, last string) string {
	return TimelineDir(sysid, first[:8]) + first + "-" + last + LostSuffix
}

// LostName is the first segment's name of an acknowledgement's key.
func LostName(sysid uint64, key string) (string, bool) {
	name, ok := strings.CutSuffix(key[strings.LastIndexByte(key, '/')+1:], LostSuffix)
	first, last, ok2 := strings.Cut(name, "-")
	if !ok || !ok2 || segment.Classify(first) != segment.Full || segment.Classify(last) != segment.Full || LostKey(sysid, first, last) != key {
		return "", false
	}
	return first, true
}

// Key is the object of a WAL file. The name must be one that PostgreSQL archives.
func Key(sysid uint64, name string) string {
	return TimelineDir(sysid, name[:8]) + name + ".zst"
}

func ArchiveDir(sysid uint64) string { return "wal/" + strconv.FormatUint(sysid, 10) + "/" }

func TimelineDir(sysid uint64, tli string) string { return ArchiveDir(sysid) + tli + "/" }

// Object is one WAL file in the archive.
type Object struct {
	Key      string
	SystemID uint64
	Name     string // as PostgreSQL has it
	Type     segment.Type
	Size     int64     // as stored
	Created  time.Time // by the store's clock; see storage.Info
	Piece    Piece     // of a segment.Received; Name is the segment's then
	Note     string    // of a segment.Noted: NoteOfParameters or NoteOfDirectories; Name is the segment's then
}

// ParseKey is Key backwards; false for a key that Key does not build.
func ParseKey(key string) (Object, bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 {
		return Object{}, false
	}
	id, err := strconv.ParseUint(parts[1], 10, 64)
	name, ok := strings.CutSuffix(parts[3], ".zst")
	if p, is := ParsePiece(name); is && err == nil && p.Key(id) == key {
		return Object{Key: key, SystemID: id, Name: p.Segment, Type: segment.Received, Piece: p}, true
	}
	typ := segment.Classify(name)
	if err != nil || !ok || typ == segment.Invalid || Key(id, name) != key {
		return Object{}, false
	}
	return Object{Key: key, SystemID: id, Name: name, Type: typ}, true
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/settings"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"golang.org/x/sync/errgroup"
)

// survey is what a first reading of the manifest tells. That it can be read to its end at all also shows, before
// anything is written, that every line of it makes sense.
type survey struct {
	bytes   map[string]int64  // by tablespace (pg_tblspc/OID), by what was behind a link, and pg_wal
	leftOut int64             // bytes of files that are made empty
	links   map[string]linked // what was behind a link in the original
	entries map[string]bool   // at the top of the data directory
	files   map[string]bool   // of these, the files
	spaces  map[uint32]string // where tablespaces were, by OID
	confs   []*manifest.File  // files with settings
	control *manifest.File    // pg_control
	mode    manifest.Mode     // of the data directory
}

// linked is where a link of the original led.
type linked struct {
	to   string
	file bool
}

const (
	maxConfSize  = 1 << 20
	maxConfFiles = 100
)

func surveyManifest(m *manifest.Reader, only *databases) (*survey, error) {
	s := &survey{bytes: map[string]int64{}, links: map[string]linked{}, entries: map[string]bool{}, files: map[string]bool{}, spaces: map[uint32]string{}}
	for {
		f, err := m.Next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		if f.Type == manifest.TypeFile && only.leavesOut(f.RawPath()) {
			if f.At == 0 {
				s.leftOut += f.Size
			}
			continue
		}
		s.add(f)
	}
}

func (s *survey) add(f *manifest.File) {
	p := f.RawPath()
	if oid, ok := spaceOf(f); ok {
		s.spaces[oid] = f.RawLink()
	}
	switch {
	case p == manifest.Root:
		s.mode = f.Mode
		return
	case f.Type != manifest.TypeLink && f.RawLink() != "":
		s.links[p] = linked{f.RawLink(), f.Type == manifest.TypeFile}
		s.bytes[p] = 0
	case path.Dir(p) == "pg_tblspc", p == "pg_wal":
		s.bytes[p] = 0
	}
	if !strings.Contains(p, "/") {
		s.entries[p] = true
		s.files[p] = f.Type == manifest.TypeFile
	}
	if f.Type != manifest.TypeFile || f.At > 0 {
		return
	}
	for at := p; at != "."; at = path.Dir(at) {
		if _, apart := s.bytes[at]; apart {
			s.bytes[at] += f.Size
			break
		}
	}
	if p == controlPath {
		s.control = f
	}
	if strings.HasSuffix(p, ".conf") && !settings.IsAccess(p) && strings.Count(p, "/") <= 2 && f.Size <= maxConfSize && len(s.confs) < maxConfFiles {
		s.confs = append(s.confs, f)
	}
}

// ConfLine is a line of a configuration file in the backup.
type ConfLine struct {
	File string // in the data directory, or absolute for one from outside
	Line int
	Name string
	Text string // as it stands there, without comment and blanks around
	Why  string // it deserves a look
}

// confScan is what the configuration in a backup says that matters to a copy.
type confScan struct {
	archiving []ConfLine // archive_mode, archive_command, archive_library
	waiting   []ConfLine // synchronous_standby_names
	steering  []ConfLine // what would steer a recovery, in other files than postgresql.auto.conf, where it is taken out
	dangerous []ConfLine
	blind     *ConfLine         // hot_standby = off
	own       map[string]string // the texts of those in the data directory

	parameters []ConfLine // that recovery may need
}

// scanConf reads the configuration files that the backup has.
func scanConf(ctx context.Context, s storage.Store, b *catalog.Backup, files []*manifest.File) (confScan, error) {
	c := confScan{own: map[string]string{}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	texts := make([][]byte, len(files))
	for i, f := range files {
		g.Go(func() (err error) {
			if texts[i], err = readContent(ctx, s, f); err != nil {
				return fmt.Errorf("read %s of the backup: %w", f.RawPath(), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return c, err
	}
	for i, f := range files {
		c.own[f.RawPath()] = string(texts[i])
		c.scan(f.RawPath(), string(texts[i]), b)
	}
	for _, f := range b.ConfigFiles {
		if !settings.IsAccess(f.Path) {
			c.scan(f.Path, string(f.Content), b)
		}
	}
	return c, nil
}

// scan looks at the settings of one file.
func (c *confScan) scan(file, text string, b *catalog.Backup) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		name, value := parseSetting(line)
		if name == "" {
			continue
		}
		l := ConfLine{File: file, Line: n, Name: name, Text: strings.TrimSpace(line)}
		if strings.HasPrefix(name, "archive_") && name != "archive_timeout" && name != "archive_cleanup_command" {
			c.archiving = append(c.archiving, l)
		}
		if value != "" && name == synchronous {
			c.waiting = append(c.waiting, l)
		}
		if value != "" && file != autoConf && isSteering(Recovery{}, name) {
			c.steering = append(c.steering, l)
		}
		if name == "hot_standby" && slices.Contains([]string{"off", "false", "no", "0"}, strings.ToLower(value)) {
			c.blind = &l
		}
		if isNeeded(name) {
			c.parameters = append(c.parameters, l)
		}
		if l.Why = danger(name, value, b); l.Why != "" {
			c.dangerous = append(c.dangerous, l)
		}
	}
}

// danger says why a setting that served the original may be wrong for a copy, or do harm to the original.
func danger(name, value string, b *catalog.Backup) string {
	switch name {
	case "data_directory":
		return "it decides which data the server opens, whatever -D says"
	case "hba_file", "ident_file", "include", "include_dir", "include_if_exists":
		return "it leads to another file"
	case "stats_temp_directory":
		if filepath.IsAbs(value) {
			return "the original may use the same"
		}
	case "external_pid_file", "unix_socket_directories", "unix_socket_directory":
		return "the original may use the same"
	case "listen_addresses", "port":
		return "two servers on a host cannot have the same, and clients may find the copy"
	case "archive_command", "archive_library", "archive_mode":
		return "a copy must not archive to where the original does"
	case "archive_cleanup_command", "recovery_end_command", "restore_command":
		return "it runs a command during recovery"
	case "recovery_min_apply_delay":
		return "recovery goes on only after that time"
	case synchronous:
		if value == "" {
			return ""
		}
		return "commits wait until such a standby, or wal-receive --synchronous, is connected to it"
	case "primary_conninfo":
		return "it leads to the server that the original followed"
	}
	switch {
	case strings.HasPrefix(name, "recovery_target") && name != "recovery_target_action" && value != "":
		return "it is another recovery's target"
	case strings.HasPrefix(name, "ssl_"):
		return "it belongs to the original's host"
	case filepath.IsAbs(value) && b.PGDATA != "" && within(value, b.PGDATA):
		return "it leads into the original's data directory"
	case filepath.IsAbs(value) && exists(value):
		return "the path exists on this host, too"
	}
	return ""
}

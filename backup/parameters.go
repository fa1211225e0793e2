package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// readParameters finds the changes of the server's settings on the way of the recovery. Where the WAL was written with
// wal_level = minimal from some place on, the way ends there.
func (p *Plan) readParameters(ctx context.Context) error {
	store, b, size := p.request.Store, p.Backup, segment.Size(p.Backup.SegmentSize)
	all, err := parametersOf(ctx, store, p.WAL.notes, p.Path, size)
	if err == nil && p.WAL.Received {
		var more []segment.Parameters
		more, err = walstore.ParametersIn(ctx, store, b.SystemID, p.WAL.tail)
		all = append(all, more...)
	}
	if err := p.unread(err); err != nil {
		return err
	}
	for _, c := range all {
		if c.At >= b.StartLSN && c.At < p.WAL.End {
			p.changes = append(p.changes, c)
		}
	}
	if i := slices.IndexFunc(p.changes, segment.Parameters.Minimal); i >= 0 {
		p.minimal = p.changes[i].At
		p.changes = p.changes[:i]
		p.WAL.End, p.WAL.Missing, p.WAL.Received = p.minimal, "", false
		p.WAL.Last = nameOf(p.Path, p.WAL, segment.At(0, p.minimal, size).No, size)
	}
	return nil
}

// parametersOf reads the notes of segments along a way, in the order of the WAL.
func parametersOf(ctx context.Context, s storage.Store, notes []walstore.Object, legs []Leg, size segment.Size) (all []segment.Parameters, err error) {
	for _, leg := range legs {
		var own []walstore.Object
		for _, o := range notes {
			if t, err := segment.TimelineOf(o.Name); err == nil && t == leg.Timeline && o.Note == walstore.NoteOfParameters {
				own = append(own, o)
			}
		}
		n, e := walstore.ReadNotes(ctx, s, own, size)
		err = errors.Join(err, e)
		for _, c := range n.Parameters {
			if leg.End == 0 || c.At < leg.End { // what is there twice is the same
				all = append(all, c)
			}
		}
	}
	return segment.SortParameters(all), err
}

// checkMinimal refuses a target that lies where PostgreSQL does not replay all that was done: up to 13 it says so in its log
// only, from 14 on it stops (CheckRequiredParameterValues).
func (p *Plan) checkMinimal(at *segment.Mark) error {
	r := p.request.Recovery
	switch {
	case p.minimal == 0 || r.TargetImmediate || at != nil && at.At < p.minimal, r.TargetLSN != 0 && (r.TargetLSN < p.minimal || r.TargetLSN == p.minimal && r.Exclusive):
		return nil
	case at == nil && r.seeks():
		p.warn("%s: recovery must not come to it. %s", p.minimalText(), p.beforeMinimal())
		return nil
	case !r.TargetTime.IsZero():
		return nil // checkTime
	}
	return unreachable("%s\n%s", p.minimalText(), p.beforeMinimal())
}

func (p *Plan) minimalText() string {
	return fmt.Sprintf("from %s on the WAL was written with wal_level = minimal, so that it does not hold all that was done: no backup from before that reaches anything after it", p.minimal)
}

func (p *Plan) beforeMinimal() string {
	return fmt.Sprintf("What was done before can be restored: --target-lsn %s --exclusive; pgobj pitr-windows has it as a time. What came after it needs a backup from after it", p.minimal)
}

// needed are the settings without which recovery stops as long as the server is open for reading (RecoveryRequiresIntParameter):
// the largest values in pg_control and on the way.
func needed(control segment.Parameters, changes []segment.Parameters) (settings []Setting) {
	most := [5]int32{}
	for _, c := range append(changes, control) {
		for i, v := range []int32{c.MaxConnections, c.MaxWorkerProcesses, c.MaxWALSenders, c.MaxPreparedTransactions, c.MaxLocksPerTransaction} {
			most[i] = max(most[i], v)
		}
	}
	for i, name := range [...]string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"} {
		if most[i] > 0 {
			settings = append(settings, Setting{name, strconv.Itoa(int(most[i]))})
		}
	}
	return settings
}

// isNeeded knows the names of those.
func isNeeded(name string) bool {
	_, ok := parameterDefaults[name]
	return ok
}

// parameterDefaults are what they are in PostgreSQL 10 to 18 where nothing sets them.
var parameterDefaults = map[string]int{"max_connections": 100, "max_worker_processes": 8, "max_wal_senders": 10, "max_prepared_transactions": 0, "max_locks_per_transaction": 64}

// roomForPrepared is needed for the prepared transactions in any case, also by a server that starts from its own clean shutdown or recovers
// closed to readers (PrepareRedoAdd and MarkAsPreparingGuts in twophase.c).
const roomForPrepared = "max_prepared_transactions"

// need adds what the server needs to get up and the configuration may not have.
func (p *Plan) need(ctx context.Context, s *survey, conf confScan, w *written) error {
	asShutDown := p.Backup.Offline() && len(p.Path) == 0
	if !asShutDown && (w.File == "" || len(p.Path) == 0) {
		return nil
	}
	control, err := p.control(ctx, s)
	if err != nil {
		return err
	}
	if control.Parameters.Minimal() && !asShutDown {
		return unreachable("the server was stopped with wal_level = minimal when backup %s was taken, so no recovery can begin from it\nWithout a target it can be restored as it was.", p.Backup.ID)
	}
	p.needs = needed(control.Parameters, append(slices.Clone(p.changes), p.ofSaved()...))
	var names []string
	values := p.configured(conf.own)
	for _, n := range p.needs {
		if n.Name != roomForPrepared && (asShutDown || conf.blind != nil) {
			continue
		}
		if !conf.has(n, values) {
			w.Auto, names = append(w.Auto, n), append(names, n.String())
		}
	}
	if len(names) > 0 {
		w.Comments = append(w.Comments, "The server needs "+strings.Join(names, ", ")+" to start or recover, as it had when it wrote the WAL. They stay:",
			"when it is open, ALTER SYSTEM RESET what is not wanted, and restart the server.")
		p.warn("the server needs, to start or recover, %s, which the configuration in the backup does not have: postgresql.auto.conf sets it, also for the time after the recovery. What is set on the server's command line (-c, as Patroni and containers do) is stronger: it must not be less there", strings.Join(names, ", "))
	}
	return nil
}

// ofSaved are the settings of the server that wrote the WAL that is saved: it is not in the archive yet, nor are notes of it.
func (p *Plan) ofSaved() []segment.Parameters {
	c, ok := p.target.control()
	if len(p.Saved) == 0 || !ok {
		return nil
	}
	return []segment.Parameters{c.Parameters}
}

// control reads the pg_control of the backup.
func (p *Plan) control(ctx context.Context, s *survey) (cluster.Control, error) {
	if s.control == nil {
		return cluster.Control{}, nil // a restore without it is refused elsewhere
	}
	data, err := readContent(ctx, p.request.Store, s.control)
	if err != nil {
		return cluster.Control{}, err
	}
	return cluster.ParseControl(data)
}

// has says whether the configuration is sure to set at least so much. values are what it says but for postgresql.auto.conf, which has the
// last word before the command line; nil: nobody knows.
func (c *confScan) has(s Setting, values map[string]string) bool {
	want, err := strconv.Atoi(s.Value)
	if err != nil {
		return false
	}
	value, known := values[s.Name], values != nil
	if known && value == "" {
		value = strconv.Itoa(parameterDefaults[s.Name])
	}
	for _, l := range c.parameters {
		if l.Name == s.Name && l.File == autoConf {
			_, value = parseSetting(l.Text)
			known = true
		}
	}
	set, err := strconv.Atoi(value)
	return err == nil && known && set >= want
}

// Needs are the settings without which the recovery stops, as far as the archive knows.
func (p *Plan) Needs() []Setting { return p.needs }

// lacking are those of the settings that recovery needs by pg_control and that there is less of. blind: the server recovers closed to readers.
func lacking(control segment.Parameters, blind bool, have func(Setting) bool) (lack []string) {
	for _, n := range needed(control, nil) {
		if (!blind || n.Name == roomForPrepared) && !have(n) {
			lack = append(lack, n.String())
		}
	}
	return lack
}

// lackingNow is for a server that answers; a setting that it does not tell is not lacking.
func lackingNow(control segment.Parameters, s *cluster.Recovery) []string {
	return lacking(control, false, func(n Setting) bool {
		want, _ := strconv.Atoi(n.Value)
		set, known := s.Settings[n.Name]
		return !known || set >= want
	})
}

// lackingIn is for a server that stopped: by its configuration, and the command line of its last start (postmaster.opts).
func lackingIn(dir string, control segment.Parameters) []string {
	var c confScan
	for _, name := range []string{"postgresql.conf", autoConf} {
		text, _ := os.ReadFile(filepath.Join(dir, name)) // one that cannot be read sets nothing
		c.scan(name, string(text), &catalog.Backup{})
	}
	options, _ := os.ReadFile(filepath.Join(dir, "postmaster.opts"))
	text := string(options)
	blind := c.blind != nil || regexp.MustCompile(`hot_standby=(off|false|no|0)\b`).MatchString(text)
	main := filepath.Join(dir, "postgresql.conf")
	if named := regexp.MustCompile(`config_file=([^"]+)`).FindStringSubmatch(text); named != nil {
		main = named[1]
	}
	values := onDisk.Values(main)
	return lacking(control, blind, func(n Setting) bool {
		given := regexp.MustCompile(`\b`+n.Name+`=(\d+)`).FindAllStringSubmatch(text, -1)
		if len(given) == 0 {
			return c.has(n, values)
		}
		want, _ := strconv.Atoi(n.Value)
		set, _ := strconv.Atoi(given[len(given)-1][1])
		return set >= want
	})
}

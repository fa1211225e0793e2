package settings

import (
	"slices"
	"strconv"

	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Needed are the settings without which recovery stops as long as the server is open for reading (RecoveryRequiresIntParameter):
// the largest values in pg_control and on the way.
func Needed(control segment.Parameters, changes []segment.Parameters) (settings []recovery.Setting) {
	most := [5]int32{}
	for _, c := range append(slices.Clone(changes), control) {
		for i, v := range []int32{c.MaxConnections, c.MaxWorkerProcesses, c.MaxWALSenders, c.MaxPreparedTransactions, c.MaxLocksPerTransaction} {
			most[i] = max(most[i], v)
		}
	}
	for i, name := range [...]string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"} {
		if most[i] > 0 {
			settings = append(settings, recovery.Setting{Name: name, Value: strconv.Itoa(int(most[i]))})
		}
	}
	return settings
}

// parameterDefaults are what they are in PostgreSQL 10 to 18 where nothing sets them.
var parameterDefaults = map[string]int{"max_connections": 100, "max_worker_processes": 8, "max_wal_senders": 10, "max_prepared_transactions": 0, "max_locks_per_transaction": 64}

// RoomForPrepared is needed for the prepared transactions in any case, also by a server that starts from its own clean shutdown or recovers
// closed to readers (PrepareRedoAdd and MarkAsPreparingGuts in twophase.c).
const RoomForPrepared = "max_prepared_transactions"

// Has says whether the configuration is sure to set at least so much. values are what it says but for postgresql.auto.conf, which has the
// last word before the command line; nil: nobody knows.
func (c *ConfScan) Has(s recovery.Setting, values map[string]string) bool {
	want, err := strconv.Atoi(s.Value)
	if err != nil {
		return false
	}
	value, known := values[s.Name], values != nil
	if known && value == "" {
		value = strconv.Itoa(parameterDefaults[s.Name])
	}
	for _, l := range c.parameters {
		if l.Name == s.Name && l.File == AutoConf {
			_, value = Parse(l.Text)
			known = true
		}
	}
	set, err := strconv.Atoi(value)
	return err == nil && known && set >= want
}

// Lacking are those of the settings that recovery needs by pg_control and that there is less of. blind: the server recovers closed to
// readers.
func Lacking(control segment.Parameters, blind bool, have func(recovery.Setting) bool) (lack []recovery.Setting) {
	for _, n := range Needed(control, nil) {
		if (!blind || n.Name == RoomForPrepared) && !have(n) {
			lack = append(lack, n)
		}
	}
	return lack
}

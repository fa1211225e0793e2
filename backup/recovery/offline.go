package recovery

// RollsForward says whether a recovery is asked for that goes on after the place where a server was shut down.
// PostgreSQL can do that from a clean shutdown as from a backup (InitWalRecovery in xlogrecovery.c: DB_SHUTDOWNED), if
// the archive has the WAL from there on.
func (r Recovery) RollsForward() bool {
	return r.Standby || r.Timeline != "" || !r.ToTheEnd() && !r.TargetImmediate
}

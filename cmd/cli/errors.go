package cli

import (
	"slices"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/archiving"
	"github.com/pgobj/pgobj/backup/conninfo"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/drill"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/outcome"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/readback"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/lists"
	"github.com/pgobj/pgobj/cmd/instant"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/owned"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/admit"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/receive"
	"github.com/pgobj/pgobj/walstore/segment"
)

// meaning is what an error tells the user: the first entry of meanings whose error is in the chain. Without a code it
// tells what to do, and the next one whose error is in the chain has the code. kind is for scripts: no other entry has it, and
// it is never changed.
type meaning struct {
	err  error
	code int
	kind string
	hint string
}

// meanings: how a command ended counts more than why, and a cause that is known closely more than its kind.
var meanings = slices.Concat(endings, causes, kinds)

var endings = []meaning{
	{sweep.ErrUnfinished, 0, "deletion-unfinished", "The catalog has the deletion. To remove the objects that are left: pgobj delete garbage --confirm. Do not give the same command again: it may delete more (delete oldest: the next backup)."},
	{app.ErrInterrupted, app.ExitInterrupted, "interrupted", "Listed backups are unchanged. Run the command again."},
	{app.ErrStopping, 0, "server-stopping", "Nothing is lost: the files stay in pg_wal, and PostgreSQL archives them when it runs again. To archive them while the server is stopped: pgobj wal-push --all PGDATA"},
	{app.ErrTimeout, app.ExitTimeout, "timeout", "What was finished is safe. Run the command again, with a longer --timeout (PGOBJ_TIMEOUT) if the time was too short."},
	{app.ErrOutput, app.ExitFailure, "output-lost", "The command did its work; only its output is lost. Check where standard output goes (a full device, a closed pipe). To see the result: pgobj backup-list, or the same command if it only reports."},
}

var kinds = []meaning{
	{app.ErrUsage, app.ExitUsage, "usage", "See pgobj --help, and --help of the command. The help names the environment variables, too."},
	{instant.ErrForm, app.ExitUsage, "not-a-time", ""},
	{catalog.ErrNewer, app.ExitNewer, "newer-catalog", "Install the newest pgobj on this host."},
	{manifest.ErrNewer, app.ExitNewer, "newer-manifest", "Install the newest pgobj on this host."},
	{app.ErrNoServer, app.ExitNotFound, "no-server", "To list the servers: pgobj server-list. Check --storage and --server. A server is listed after its first wal-push or backup-push."},
	{catalog.ErrNoBackup, app.ExitNotFound, "no-backup", "To list the backups: pgobj backup-list. It also says whether the catalog has lost some; then see pgobj catalog-rebuild. Check --storage and --server."},
	{app.ErrDamagedPages, app.ExitPages, "damaged-pages", "The pages were already damaged on this server. Keep the last backup without damaged pages, and repair the relations (pg_amcheck, REINDEX, or a restore)."},
	{catalog.ErrMoved, app.ExitConflict, "catalog-busy", "Run the command again when nothing else writes to the catalog."},
	{retention.ErrRefused, app.ExitRefused, "retention-refused", "Nothing has been deleted."},
	{retention.ErrPolicy, app.ExitUsage, "not-a-policy", ""},
	{sweep.ErrChanged, app.ExitConflict, "plan-changed", "Nothing has been deleted. Read the new plan, and confirm that one if it is what you want."},
	{lists.ErrLocked, app.ExitLocked, "objects-locked", "The catalog has the deletion. The objects are under object lock, or these credentials may not delete them. Remove them when the locks have ended, or with other credentials: pgobj delete garbage --confirm. Do not give the same command again: it may delete more."},
	{drill.ErrTablespace, app.ExitUsage, "drill-tablespace", "The drill does not show whether the backup is good. Take a new backup, which includes the tablespace (pgobj backup-push), and try that one. Or give a target from before the tablespace was created."},
	{drill.ErrPreload, app.ExitUsage, "drill-preload", "The drill does not show whether the backup is good. Give the names from the original's shared_preload_libraries that recovery needs (--preload). They must be installed on this host."},
	{drill.ErrFailed, app.ExitDrill, "drill-failed", "Run the drill again with --keep to examine the copy, and with another backup. If that one passes, store everything again: pgobj backup-push --full"},
	{drill.ErrHost, app.ExitUsage, "drill-host", "The backup has not been tested. See pgobj drill --help."},
	{content.ErrNoFile, app.ExitNotFound, "no-file", "Give a path relative to the data directory (base/5/1259, pg_tblspc/OID/PG_…), or the absolute path of a configuration file outside of it."},
	{outcome.ErrNotReached, app.ExitNotReached, "target-not-reached", ""},
	{outcome.ErrRecovering, app.ExitRecovering, "recovering", "Run restore-check again later."},
	{outcome.ErrUnasked, app.ExitPostgres, "server-not-asked", "Run restore-check as a user who can connect: the owner of the data directory, or root. Or give --dsn, PGUSER or PGDATABASE."},
	{outcome.ErrNotRestored, app.ExitUsage, "not-restored", "Name a data directory that pgobj backup-fetch has restored."},
	{backup.ErrServer, app.ExitPostgres, "backup-not-allowed", ""},
	{backup.ErrDatabaseLost, app.ExitPostgres, "database-changed", "No backup was entered in the catalog. Run the command again while no CREATE DATABASE, DROP DATABASE or ALTER DATABASE … SET TABLESPACE runs and no template database changes."},
	{backup.ErrUnseen, app.ExitPostgres, "data-not-visible", "No backup was entered in the catalog. Mount the volume where pgobj runs (also in its container), at the same path, and run the command again. If the tablespace is lost: DROP TABLESPACE. If the server is stopped and the link is a leftover, remove the link."},
	{conninfo.ErrSettings, app.ExitUsage, "connection-settings", "pgobj reads connection strings, PG… variables, service files and ~/.pgpass as psql of PostgreSQL 18 does. Check whether psql connects with the same settings."},
	{server.ErrConnect, app.ExitPostgres, "cannot-connect", "Check that the server runs, and that the address is right (PGHOST, PGPORT, PGUSER, or --dsn). A standby accepts connections with hot_standby = on, once it is consistent. To back up a stopped server: pgobj backup-push --offline PGDATA"},
	{server.ErrRefused, app.ExitPostgres, "postgres-refused", "No backup was entered in the catalog."},
	{server.ErrNotStopped, app.ExitPostgres, "server-not-stopped", "No backup was entered in the catalog."},
	{server.ErrSessionLost, app.ExitPostgres, "session-lost", "No backup was entered in the catalog. Check whether the server was stopped or the session was terminated, and run the command again."},
	{server.ErrPooler, app.ExitPostgres, "pooler", "A backup needs a server session of its own. Set PGHOST and PGPORT (or --dsn) to the server's own address, not to the pooler's."},
	{server.ErrPromoted, app.ExitPostgres, "standby-promoted", "No backup was entered in the catalog. Run the command again."},
	{server.ErrVersion, app.ExitPostgres, "postgres-version", ""},
	{datadir.ErrNone, app.ExitUsage, "no-data-directory", "PostgreSQL runs archive_command and restore_command in its data directory. By hand, run pgobj there, give an absolute path, or set PGDATA."},
	{datadir.ErrControl, app.ExitPostgres, "invalid-pg-control", "Check that this is the data directory of PostgreSQL 10 or later, and that its disk is healthy."},
	{backup.ErrIncarnation, app.ExitConflict, "catalog-of-other-cluster", ""},
	{archiving.ErrElsewhere, app.ExitWAL, "archives-elsewhere", "No backup was entered in the catalog. Set archive_command = 'pgobj wal-push %p' with this storage and server, run SELECT pg_reload_conf(), and run the command again."},
	{backup.ErrWALMissing, app.ExitWAL, "backup-wal-missing", "No backup was entered in the catalog. Repair archiving first: see SELECT * FROM pg_stat_archiver, and the server's log."},
	{backup.ErrReplaces, app.ExitNoStore, "storage-replaces", "Do not use pgobj with this storage: two servers, or a repeated request, could replace WAL, backups and the catalog. Use another service, a newer version of it, or a directory. Objects that were stored here may already have been replaced."},
	{catalog.ErrWALDeleted, app.ExitWAL, "backup-wal-deleted", "No backup was entered in the catalog. None can be until the server's WAL is past the end of the deleted WAL. On a standby: let it catch up. On a primary that was reset to a snapshot: give it its own --server name (PGOBJ_SERVER), also in archive_command; or write something and run SELECT pg_switch_wal(), once for each segment up to there."},
	{backup.ErrTarget, app.ExitTarget, "restore-directory", ""},
	{datadir.ErrInside, app.ExitUsage, "storage-inside", "Nothing was changed. Move the storage directory to another place, best on another disk, and change --storage, also in archive_command. For a restore, choose another directory."},
	{backup.ErrRequest, app.ExitUsage, "restore-request", "See pgobj backup-fetch --help."},
	{recovery.ErrUnreachable, app.ExitUnreachable, "unreachable-target", "Nothing was fetched or changed. To see what a restore would do, add --plan."},
	{readback.ErrRefused, app.ExitFailure, "read-back-differs", "No backup was entered in the catalog; older backups are unchanged. Run the command again with --full, which reuses nothing that is stored. If that fails too, pgobj has a bug (please report the line above), or the memory of this host is faulty (memtest86+ tests it)."},
	{manifest.ErrDamaged, app.ExitDamaged, "damaged-manifest", "Nothing of this backup can be trusted without its manifest. Restore another one; to list them: pgobj backup-list"},
	{codec.ErrMispacked, app.ExitFailure, "mispacked", "No backup was entered in the catalog. The memory or the processor of this host makes errors, or the compression does. Run the command again. If it fails at the same file, change --compression (lz4 or zstd). If it fails at another file, test the memory (memtest86+), or take backups on a standby until the host is repaired."},
	{part.ErrDamaged, app.ExitDamaged, "damaged-part", "Restore another backup (pgobj backup-list), or bring the named object back from a copy or an older version of the bucket. New backups reuse stored data, and with it the damage. While the server still has its data, store everything again: pgobj backup-push --full"},
	{catalog.ErrDamaged, app.ExitDamaged, "damaged-catalog", "Nothing was changed. Other backups may be intact: pgobj backup-list. If the storage keeps versions or a copy, bring the named object back from there. Otherwise see what can be repaired: pgobj catalog-rebuild"},
	{receive.ErrRemoved, app.ExitWAL, "stream-wal-removed", ""},
	{receive.ErrOtherServer, app.ExitConflict, "stream-of-other-cluster", "Check --dsn (PGOBJ_DSN), or PGHOST and PGPORT. If a new cluster has this address now, start wal-receive again."},
	{receive.ErrSpool, app.ExitFailure, "receive-directory", "Check free space and permissions of the directory, or give another one with --spool."},
	{receive.ErrStream, app.ExitWAL, "wrong-stream", "Nothing wrong was stored. Check that PostgreSQL itself answers at this address. Start wal-receive again, and see the server's log."},
	{server.ErrReplication, app.ExitPostgres, "no-streaming", "The server's message says what is missing: a slot (--create-slot), the REPLICATION privilege, wal_level = replica, or max_replication_slots. If a slot has lost its WAL (wal_status = lost), --create-slot creates it again; without it, drop the slot first."},
	{server.ErrWALRemoved, app.ExitWAL, "server-wal-removed", ""},
	{datadir.ErrTablespace, app.ExitTarget, "new-tablespace", "Restore a newer backup, which includes the tablespace (pgobj backup-push takes one), or restore on another host. If nobody needs the directory any more, move its content away and start the server again. If recovery is to end before the tablespace is created, but in the same segment, remove --new-tablespaces from restore_command."},
	{object.ErrName, app.ExitUsage, "not-a-wal-name", "Give wal-push the path of a file in pg_wal (archive_command's %p), and wal-fetch the name of a file (restore_command's %f)."},
	{object.ErrSource, app.ExitWAL, "invalid-wal-file", "The archive is unchanged. If PostgreSQL cannot read the file either, take a new base backup: recovery cannot get past this file."},
	{object.ErrConflict, app.ExitConflict, "wal-conflict", "The archive is unchanged. Two servers that were one (a clone, or a primary that came back after a failover) write to the same place: give one of them its own --server name (PGOBJ_SERVER), also in archive_command. Otherwise compare the two files with pg_waldump."},
	{admit.ErrForeign, app.ExitConflict, "wrong-cluster", "The archive is unchanged, and PostgreSQL keeps its WAL. Another server needs its own --server name (PGOBJ_SERVER), also in archive_command. After pg_upgrade, enter the new cluster: pgobj backup-push. After an intended initdb: pgobj backup-push --new-incarnation. Archiving then continues by itself."},
	{object.ErrDamaged, app.ExitDamaged, "damaged-wal", "Bring the object back from a copy or an older version, if the storage keeps them. If the file is still in pg_wal, delete the object and archive the file again."},
	{walstore.ErrGap, app.ExitWAL, "wal-gap", "Recovery cannot get past the missing file. If pg_wal of the old server still has it, archive it, in that data directory: pgobj wal-push pg_wal/FILE. Or recover to a time before the gap (pgobj pitr-windows lists them). For that, PostgreSQL 15 and later need recovery_prefetch = off, because they read ahead; backup-fetch writes it when it knows of the gap."},
	{walstore.ErrUnknownArchive, app.ExitWAL, "unknown-archive", "Check --storage and --server, and that this is the right data directory."},
	{walstore.ErrAbsent, app.ExitNotFound, "wal-absent", ""},
	{owned.ErrBusy, app.ExitFailure, "busy", ""},
	{object.ErrDest, app.ExitFailure, "destination", "Check free space and permissions of the directory that is written to."},
	{segment.ErrHeader, app.ExitWAL, "wrong-wal-content", ""},
	{storage.ErrTooLarge, app.ExitDamaged, "object-too-large", "pgobj did not write this object. Bring the right one back from a copy or an older version of the bucket."},
	{storage.ErrUnreadable, app.ExitUnreadable, "object-unreadable", "Nothing is damaged. Restore the archived objects (pgobj backup-files BACKUP --target=full --url lists them; aws s3api restore-object restores one), or enable the key again, and run the command again. A lifecycle rule must not archive objects that backups need. To delete old backups instead: pgobj delete policy --retention POLICY"},
	{storage.ErrDenied, app.ExitDenied, "access-denied", "The credentials are valid, but do not allow this. pgobj needs the rights to get, put and list objects below its prefix, and to delete them for deletions."},
	{storage.ErrNoStore, app.ExitNoStore, "no-storage", "Check --storage and --s3-endpoint."},
	{storage.ErrExists, app.ExitConflict, "object-exists", "pgobj never replaces an object. Check whether another server writes to the same place."},
	{storage.ErrNotFound, app.ExitDamaged, "object-missing", "An object that must exist is missing. Check whether a lifecycle rule deletes objects in the bucket."},
	{storage.ErrTransient, app.ExitStorage, "storage-unavailable", "The storage did not answer in time, although pgobj tried again. Check the network, --s3-endpoint and the state of the service."},
}

// Package ahead works ahead of PostgreSQL's requests: it archives files that the archiver will ask wal-push for (push ahead), and
// fetches segments that a recovery will ask wal-fetch for (fetch ahead). It refuses to answer PostgreSQL, to know flags and exit
// codes, and to conclude that a file is absent.
//
// # Who starts whom
//
// PostgreSQL starts one process for each file, and acts on its exit code: archive_command wal-push, restore_command wal-fetch. Each
// looks at its host once (Host). wal-push starts wal-push-ahead when its file has a .ready, others wait as well, and nobody has its
// file on a list. wal-fetch starts wal-prefetch when it has given a recovering server its segment, and nobody fills the server's
// window. A helper is this program with two hidden commands. It has no stderr, as a reader of the log would wait for its end. It stays
// in the process group of the server's process that has asked, so it is ended with that; nobody waits for it, and nobody learns
// its exit code. Each gets the run of the server that it was started for (pid and start time), looks at postmaster.pid every 500 ms,
// and ends soon after that run has, wal-prefetch also when the recovery has ended. No helper is started where the postmaster is
// process 1 (see mayWork), or by another user than the data directory's.
//
// # What lies in the spool, and which file says what
//
// The spool is a directory of this host; package spool has its files, and who may have written to it. All are of one scope: one
// archive, one system identifier, one data directory.
//
//	pushing-SCOPE         names of the files that a wal-push-ahead archives. Its lock: the process lives. Names without
//	                      a lock say nothing; none, and no lock: it could not write markers, and nobody tries again for a minute
//	pushed-SCOPE-NAME     the archive has acknowledged NAME: its inode, size, times and hashes, for an hour
//	admitted-SCOPE        the archive takes WAL of this cluster, for a day at most
//	fetched-SCOPE/        a window; its scope has the run of the server in it
//	  lock                names of segments that the server got. Its lock: a wal-prefetch fills the window
//	  NAME.part           is being fetched
//	  NAME.XXHash           is whole, checked by its SHA-256, and synced
//
// # Push ahead
//
// wal-push P: is there a marker for P as it is, and has its content, read now, the marker's hash? Then P is archived: 0. Else, is P on
// the list of a process that lives, or can one be started? Then wait for the marker, for half of the time that there is at most. Else,
// and when that process has ended or has taken its names off, push P itself. wal-push-ahead: take the lock, write the list, push in
// PostgreSQL's order, never more than a few files past one that is not there yet, and write each marker after the archive has
// acknowledged the file. The first failure takes all names off: wal-push then meets it itself, and reports it.
//
// # Fetch ahead
//
// wal-fetch S: is S on its way into the window? Wait while it grows. Is it there? Check its hash and header again, and move it to
// where PostgreSQL wants it: 0. Else fetch it from the archive. Then tell the window's process the name. wal-prefetch: keep
// the next segments after the name that it was told last in the window, drop all others, and try nothing again before
// the next name. It ends after 5 minutes without one, and removes the window.
//
// # When one is killed, at any point
//
//	wal-push                  the archiver asks again (pgarch_archiveXlog); the helper goes on, and its markers answer
//	wal-push-ahead            its lock is gone, so its list says nothing: wal-push pushes. A file whose marker it had not written yet
//	                          is in the archive, or not: pushing it again finds the same content, a success
//	wal-fetch                 recovery stops with FATAL, as after 255, and asks again when it is started (RestoreArchivedFile); a
//	                          segment that was moved already is then fetched from the archive
//	wal-prefetch              its lock is gone: nobody waits. What is whole may be used, NAME.part is not. The next one clears both
//	the postmaster            helpers see it within 500 ms; an immediate shutdown ends them with their process group
//	the host                  nothing in the spool is synced but whole segments. A marker that is torn has a wrong checksum, one that
//	                          survived is of a file that did: inode, ctime and content are compared
//
// # Why PostgreSQL is never lied to
//
// A 0 of wal-push needs an acknowledgement of the archive for this very content: the marker is written only after it, and is
// compared with the content as it is now. A 0 of wal-fetch needs the bytes whose SHA-256 was right when they came from the archive: the
// name has their XXHash, and nobody else can have written to the window. A 1 of wal-fetch never comes from here: what is not in
// the window is looked for in the archive, which alone can prove absence. And whatever goes wrong here is no error: the work is then
// done by the process that was asked.
package ahead

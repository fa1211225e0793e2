package cli

import (
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/cmd/cli/config"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/owned"
)

// causes are what is known more closely of trouble with settings, the storage and the connection to PostgreSQL: what each tells
// the user to do. The exit code is that of the kind of error. A test makes each of them happen.
var causes = []meaning{
	{config.ErrUnreadable, 0, "config-file-unreadable", "Check that the file exists, and that the user who runs pgobj may read it. archive_command and restore_command run as the server's user: chown postgres and chmod 0600 the file, and check that this user may enter the directories above it."},
	{owned.ErrStranger, 0, "file-not-trusted", "pgobj uses only files that belong to root or to the user who runs it, and that nobody else may write to: chown the file, and chmod go-w it."},
	{config.ErrNoChoice, 0, "no-server-chosen", "Give --server (PGOBJ_SERVER), also in archive_command. Or give each section the pgdata of its server: commands that run in a data directory find their section by it. pgobj config --server NAME shows what a section says."},
	{config.ErrUnknown, 0, "server-unknown", "Check the name. For a server that only its old backups are left of, add a section with active = no. To go without configuration files: --config none (PGOBJ_CONFIG)."},
	{config.ErrInactive, 0, "server-inactive", "If backups and WAL of this server are to be taken again, remove active = no from its section."},
	{config.ErrOther, 0, "other-data-directory", "A copy needs a section and an archive of its own: give --server (PGOBJ_SERVER) in its archive_command. If the server has moved, correct pgdata in its section."},

	{storage.ErrUntrusted, 0, "storage-certificate-untrusted", "Give the certificate (PEM) of the authority that signed the server's certificate, with --s3-ca-file (PGOBJ_S3_CA_FILE, AWS_CA_BUNDLE), or add it to the system's certificates."},
	{storage.ErrWrongName, 0, "storage-certificate-name", "Use a name in --s3-endpoint that the server's certificate has, or get a certificate for this name. If the host name begins with the bucket's name, --s3-path-style true may help."},
	{storage.ErrExpired, 0, "storage-certificate-expired", "Renew the server's certificate. If it is valid, set this host's clock (date; NTP)."},
	{storage.ErrUnknownHost, 0, "storage-host-unknown", "Check the host name in --s3-endpoint (PGOBJ_S3_ENDPOINT), or for AWS the region, and how this host resolves names: getent hosts NAME. If the host name begins with the bucket's name: --s3-path-style true."},
	{storage.ErrNoTLS, 0, "storage-without-tls", "The port speaks plain HTTP. Give --s3-endpoint with http:// instead of https://, or the port that speaks TLS."},
	{storage.ErrOnlyTLS, 0, "storage-needs-tls", "The port speaks TLS. Give --s3-endpoint with https:// instead of http://, and --s3-ca-file if a private authority signed the certificate."},
	{storage.ErrNotS3, 0, "storage-not-s3", "Something answers at --s3-endpoint, but it is not an S3 service. Check whether it is the port of a console, a web server or a proxy. MinIO's S3 port is usually 9000; its console has another."},
	{storage.ErrNoRegion, 0, "no-region", "Give --s3-region (PGOBJ_S3_REGION, AWS_REGION). For a service other than AWS, give --s3-endpoint."},
	{storage.ErrWrongRegion, 0, "wrong-region", "Give the bucket's own region with --s3-region (PGOBJ_S3_REGION, AWS_REGION). If --s3-endpoint is set, give the endpoint of that region."},
	{storage.ErrNoBucket, 0, "no-bucket", "The bucket is the name after s3:// in --storage (PGOBJ_STORAGE). pgobj does not create buckets: create it first, or correct the name. Check that --s3-endpoint is the service that has it."},
	{storage.ErrNoDirectory, 0, "no-storage-directory", "Check --storage (PGOBJ_STORAGE): the directory must exist. Check that its disk is mounted."},
	{storage.ErrDirectoryRights, 0, "storage-directory-denied", "Check owner and mode of the directory and of those above it, and which user runs pgobj: it should be the server's user (su postgres -c 'pgobj …')."},
	{storage.ErrNoCredentials, 0, "no-credentials", "Give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an instance role. The environment of the process must have them: the server's for archive_command, cron's for backups. Or use --config FILE in both."},
	{storage.ErrBadCredentials, 0, "bad-credentials", "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile. They are wrong, expired, or of another service than --s3-endpoint."},
	{storage.ErrClock, 0, "clock-differs", "Set this host's clock, or the storage's (see date; timedatectl says whether NTP runs). The storage accepts no request when they differ by more than 15 minutes."},
	{storage.ErrProxy, 0, "proxy-refused", "Check HTTPS_PROXY and HTTP_PROXY, with user and password if the proxy needs them, and what the proxy allows. Or name the storage's host in NO_PROXY."},
	{storage.ErrInItsPlace, 0, "storage-intercepted", "Something in front of the storage (a load balancer, an ingress) answered instead of it, for all of --retry-for. Check its state and its log, and run the command again."},
	{storage.ErrFull, 0, "storage-full", "Free some space, or raise the quota. To see what could be deleted: pgobj delete policy --retention POLICY"},

	{server.ErrHost, 0, "postgres-host-unknown", "Check the host name (PGHOST, or host in --dsn), and how this host resolves names: getent hosts NAME."},
	{server.ErrSocket, 0, "no-socket", "No server listens in this directory. Check that the server runs and has this port (PGPORT). PGHOST (or host in --dsn) is the directory of the socket: see unix_socket_directories. To back up a stopped server: pgobj backup-push --offline PGDATA"},
	{server.ErrNobody, 0, "socket-denied", "Only the owner or group may use the socket (unix_socket_permissions). Run pgobj as the server's user."},
	{server.ErrTLS, 0, "postgres-certificate", "Give the certificate of the authority that signed the server's certificate with sslrootcert (PGSSLROOTCERT), or connect to the name that the certificate has."},
	{server.ErrIdentity, 0, "peer-user", "With peer authentication the role must be the operating system's user. Run pgobj as that user (su postgres -c 'pgobj …'), or map the two in pg_ident.conf."},
	{server.ErrNoLine, 0, "no-hba-line", "Add a line to pg_hba.conf for this host, role and database (for wal-receive: for replication), and run SELECT pg_reload_conf()."},
	{server.ErrPassword, 0, "password", "Give the password in ~/.pgpass (mode 0600, of the user who runs pgobj) or PGPASSWORD, and check the role (PGUSER)."},
	{server.ErrNoRole, 0, "no-role", "Check the role (PGUSER, or user in --dsn; the default is the operating system's user), or create it: CREATE ROLE … LOGIN."},
	{server.ErrNoDB, 0, "no-database", "Check the database (PGDATABASE, or dbname in --dsn). Any database will do, such as postgres."},
	{server.ErrNotYet, 0, "server-not-ready", "The server is starting, stopping or recovering. Try again when it accepts connections. A standby accepts them with hot_standby = on, once it is consistent."},
	{server.ErrTooMany, 0, "too-many-connections", "Close some connections, raise max_connections (max_wal_senders for wal-receive), or use a role that may use reserved connections."},
}

package cli

import (
	"errors"

	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/owned"
)

// errConfigFile: the configuration file is not there, or this process may not read it.
var errConfigFile = errors.New("the configuration file cannot be read")

// causes are what is known more closely of trouble with settings, the storage and the connection to PostgreSQL: what each tells
// the user to do. The exit code is that of the kind of error. A test makes each of them happen.
var causes = []meaning{
	{errConfigFile, 0, "Does it exist, and may the user read it that pgobj runs as? archive_command and restore_command run as the server's user: chown postgres and chmod 0600 the file, and see that the directories above it may be entered."},
	{owned.ErrStranger, 0, "pgobj believes files only that belong to root or to the user it runs as, and that nobody else may write to: chown the file, and chmod go-w it."},

	{storage.ErrUntrusted, 0, "Give the certificate of the authority that signed the server's, in PEM, with --s3-ca-file (PGOBJ_S3_CA_FILE, AWS_CA_BUNDLE), or add it to the system's."},
	{storage.ErrWrongName, 0, "Use a name in --s3-endpoint that the server's certificate has, or have a certificate made for this one. With the bucket's name in front of the host's, --s3-path-style true may help."},
	{storage.ErrExpired, 0, "Renew the server's certificate; if it is valid, set this host's clock (date; NTP)."},
	{storage.ErrUnknownHost, 0, "Check the name in --s3-endpoint (PGOBJ_S3_ENDPOINT), or of AWS the region, and how this host finds names: getent hosts NAME. If the name has the bucket in front: --s3-path-style true."},
	{storage.ErrNoTLS, 0, "The port speaks plain HTTP: give --s3-endpoint with http:// instead of https://, or the port that speaks TLS."},
	{storage.ErrOnlyTLS, 0, "The port speaks TLS: give --s3-endpoint with https:// instead of http://; and --s3-ca-file, if the certificate is of a private authority."},
	{storage.ErrNotS3, 0, "Something answers at --s3-endpoint, but not an S3 service: is it the port of a console, of a web server or of a proxy? MinIO's S3 port is 9000 as a rule, its console's another."},
	{storage.ErrNoRegion, 0, "Give --s3-region (PGOBJ_S3_REGION, AWS_REGION), or for another service than AWS --s3-endpoint."},
	{storage.ErrWrongRegion, 0, "Give the bucket's own region with --s3-region (PGOBJ_S3_REGION, AWS_REGION), and with --s3-endpoint the endpoint of that region."},
	{storage.ErrNoBucket, 0, "The bucket is what follows s3:// in --storage (PGOBJ_STORAGE). pgobj makes none: make it first, or mend the name; and check that --s3-endpoint is the service that has it."},
	{storage.ErrNoDirectory, 0, "Check --storage (PGOBJ_STORAGE): the directory has to exist. Is a disk not mounted?"},
	{storage.ErrDirectoryRights, 0, "Check owner and mode of the directory and of those above it, and as whom pgobj runs: it should be the server's user (su postgres -c 'pgobj …')."},
	{storage.ErrNoCredentials, 0, "Give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an instance role, in the environment of the process: the server's for archive_command, cron's for backups; or use --config FILE in both."},
	{storage.ErrBadCredentials, 0, "Check the credentials, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile: they are wrong, expired, or of another service than --s3-endpoint's."},
	{storage.ErrClock, 0, "Set this host's clock, or the storage's: see date, and whether NTP runs (timedatectl). More than 15 minutes apart nothing is accepted."},
	{storage.ErrProxy, 0, "Check HTTPS_PROXY and HTTP_PROXY, with user and password where the proxy wants them, and what it allows; or name the storage's host in NO_PROXY."},
	{storage.ErrInItsPlace, 0, "Something in front of the storage (a load balancer, an ingress) answered in its place, for all of --retry-for. See its state and log, and run the command again."},
	{storage.ErrFull, 0, "Make room, or raise the quota. pgobj delete policy shows what could go."},

	{server.ErrHost, 0, "Check the host's name (PGHOST, or host in --dsn), and how this host finds names: getent hosts NAME."},
	{server.ErrSocket, 0, "No server listens in this directory: does it run, and has it this port (PGPORT)? PGHOST (or host in --dsn) is the directory of the socket: see unix_socket_directories. Of a stopped server: backup-push --offline."},
	{server.ErrNobody, 0, "The socket may be used by its owner or group only (unix_socket_permissions): run pgobj as the server's user."},
	{server.ErrTLS, 0, "Give the certificate of the authority that signed the server's with sslrootcert (PGSSLROOTCERT), or connect to the name that the certificate has."},
	{server.ErrIdentity, 0, "With peer authentication the role is the operating system's user: run pgobj as that user (su postgres -c 'pgobj …'), or map the two in pg_ident.conf."},
	{server.ErrNoLine, 0, "Add a line to pg_hba.conf for this host, role and database (for wal-receive: for replication), and SELECT pg_reload_conf()."},
	{server.ErrPassword, 0, "Give the password in ~/.pgpass (mode 0600, of the user that pgobj runs as) or PGPASSWORD, and check the role (PGUSER)."},
	{server.ErrNoRole, 0, "Check the role (PGUSER, or user in --dsn; without one it is the operating system's user), or make it: CREATE ROLE … LOGIN."},
	{server.ErrNoDB, 0, "Check the database (PGDATABASE, or dbname in --dsn): any will do, postgres as a rule."},
	{server.ErrNotYet, 0, "The server starts, stops or recovers: try again when it takes connections. A standby does with hot_standby = on, once it is consistent."},
	{server.ErrTooMany, 0, "Close some, raise max_connections (max_wal_senders for wal-receive), or use a role that may take a reserved one."},
}

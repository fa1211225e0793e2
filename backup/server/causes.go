package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// Why ErrConnect, where it is known. Each has one thing that a person can do.
var (
	ErrHost     = errors.New("the server's host name cannot be resolved")
	ErrSocket   = errors.New("no server listens on this socket")
	ErrNobody   = errors.New("permission denied for the server's socket")
	ErrTLS      = errors.New("the server's certificate is not trusted")
	ErrIdentity = errors.New("the server expects another operating system user")
	ErrNoLine   = errors.New("no line of pg_hba.conf allows the connection")
	ErrPassword = errors.New("the password is wrong or missing")
	ErrNoRole   = errors.New("the role does not exist or may not log in")
	ErrNoDB     = errors.New("the database does not exist")
	ErrNotYet   = errors.New("the server does not accept connections now")
	ErrTooMany  = errors.New("the server has too many connections")
)

// connectError is ErrConnect with its reason, the server's own words in full.
func connectError(err error) error {
	return fmt.Errorf("%w: %w", ErrConnect, &because{inFull(err), causeOf(err)})
}

type because struct{ err, cause error }

func (b *because) Error() string { return b.err.Error() }

func (b *because) Unwrap() []error {
	if b.cause == nil {
		return []error{b.err}
	}
	return []error{b.err, b.cause}
}

// causeOf reads the server's SQLSTATE, and the types of the errors on the way to it; nil: nothing is known. Of 28000 there are
// several kinds, which the function that reports them tells apart: auth_failed and ClientAuthentication (auth.c),
// InitializeSessionUserId (miscinit.c).
func causeOf(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case e.Code == "28000" && e.Routine == "auth_failed":
			return ErrIdentity
		case e.Code == "28000" && e.Routine == "ClientAuthentication":
			return ErrNoLine
		case e.Code == "28000":
			return ErrNoRole
		}
		return map[string]error{"28P01": ErrPassword, "3D000": ErrNoDB, "57P03": ErrNotYet, "53300": ErrTooMany}[e.Code]
	}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case isDNS && dns.IsNotFound:
		return ErrHost
	case untrusted, authority:
		return ErrTLS
	case errors.Is(err, fs.ErrPermission):
		return ErrNobody
	case errors.Is(err, fs.ErrNotExist):
		return ErrSocket
	}
	return nil
}

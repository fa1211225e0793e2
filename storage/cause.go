package storage

import "errors"

// Causes tell more closely than a Kind why a storage cannot be used, where a driver knows. errors.Is finds them in a driver's
// error, beside the Kind's sentinel; each of them has one thing that a person can do.
var (
	ErrUntrusted       = errors.New("the server's certificate is not signed by a trusted authority")
	ErrWrongName       = errors.New("the server's certificate is for another name")
	ErrExpired         = errors.New("the server's certificate is not valid at this time")
	ErrUnknownHost     = errors.New("the host name cannot be resolved")
	ErrNoTLS           = errors.New("the server does not speak TLS")
	ErrOnlyTLS         = errors.New("the server speaks TLS only")
	ErrNotS3           = errors.New("the answer is not from an S3 service")
	ErrNoRegion        = errors.New("no region is configured")
	ErrWrongRegion     = errors.New("the bucket is in another region")
	ErrNoBucket        = errors.New("no such bucket")
	ErrNoDirectory     = errors.New("no such directory")
	ErrDirectoryRights = errors.New("permission denied for the directory")
	ErrNoCredentials   = errors.New("no credentials found")
	ErrBadCredentials  = errors.New("the credentials are not accepted")
	ErrClock           = errors.New("the clocks of this host and of the storage differ too much")
	ErrProxy           = errors.New("the proxy refused the request")
	ErrInItsPlace      = errors.New("something else answers instead of the storage")
	ErrFull            = errors.New("the storage is full")
)

// Because returns err with a cause that errors.Is finds; its text stays the same. A nil cause adds none.
func Because(err, cause error) error {
	if err == nil || cause == nil {
		return err
	}
	return &because{err, cause}
}

type because struct{ err, cause error }

func (b *because) Error() string   { return b.err.Error() }
func (b *because) Unwrap() []error { return []error{b.err, b.cause} }

package server

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgobj/pgobj/backup/conninfo"
)

// ConnectAny opens a session as the first of the roles, in the first of the databases, that the server lets in: a database may
// be closed or gone, or have a locale that the host lacks. No roles, or no databases: the one that dsn says. An error that is
// not about a role or a database (IsStarting, or no answer at all) is returned at once, else one of each kind. dsn is a
// keyword/value string.
func ConnectAny(ctx context.Context, dsn string, roles, databases []string) (*Session, error) {
	kinds := map[string]bool{}
	var refusals, strangers []error
	for _, role := range options("user", roles) {
		for _, database := range options("dbname", databases) {
			s, err := Connect(ctx, strings.TrimSpace(dsn+role+database))
			code := answer(err)
			if err == nil || code == "" || code == cannotConnectNow {
				return s, err
			}
			if strings.HasPrefix(code, "28") { // it is about the role
				strangers = append(strangers, err)
				break
			}
			if !kinds[role+code] {
				kinds[role+code] = true
				refusals = append(refusals, err)
			}
		}
	}
	return nil, errors.Join(append(refusals, strangers...)...)
}

// options are a keyword with each of the values, for a connection string; without values, nothing.
func options(keyword string, values []string) []string {
	if len(values) == 0 {
		return []string{""}
	}
	var all []string
	for _, v := range values {
		all = append(all, " "+keyword+"="+Quote(v))
	}
	return all
}

// cannotConnectNow is what a server answers that starts, recovers without letting anybody in, or stops
// (ProcessStartupPacket).
const cannotConnectNow = "57P03"

// answer is the SQLSTATE with which a server has answered; empty: it has not, or there was no error.
func answer(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// IsStarting says whether a server refused a session only for now.
func IsStarting(err error) bool { return answer(err) == cannotConnectNow }

// IsCut says whether a session ended without an answer, or because the server ends.
func IsCut(err error) bool {
	code := answer(err)
	return err != nil && !errors.Is(err, conninfo.ErrSettings) && (code == "" || code == "57P01" || code == "57P02")
}

// IsUnknownRole says whether a connection failed because the server does not know the role, or does not let this user be it.
func IsUnknownRole(err error) bool { return answer(err) == "28000" }

// IsCorruption says whether a server answered that its data is damaged.
func IsCorruption(err error) bool {
	code := answer(err)
	return code == "XX001" || code == "XX002"
}

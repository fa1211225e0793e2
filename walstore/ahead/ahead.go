// Package ahead works ahead of PostgreSQL's requests.
package ahead

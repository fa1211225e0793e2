// Package restore plans a restore, and carries the plan out.
package restore

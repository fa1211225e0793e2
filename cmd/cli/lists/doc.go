// Package lists has the commands that show and change the catalog: lists, marks, deletions, the log and its rebuilding.
package lists

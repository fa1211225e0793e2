// Package object is the format of one stored WAL file: its key, its body, how it is read and checked, and created only
// once.
package object

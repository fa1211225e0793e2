// Package unpack turns a manifest into files of a target, or only into verified hashes. It refuses to decide what is
// restored.
package unpack

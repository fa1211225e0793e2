// Package pack turns files of a data directory into frames, parts and the lines of a manifest, and reuses what is
// stored already (the dedup index). It refuses to speak to a server and to write to the catalog.
package pack

package site

import (
	"github.com/pgobj/pgobj/backup/manifest"
)

func (f *Forger) Chunk() *manifest.Chunk { return &f.Big().Chunks[0] }

package part

import (
	"fmt"
	"strings"

	"github.com/pgobj/pgobj/storage/codec"
)

// extension is the suffix of a part's name, by which its reader knows the compression.
func extension(c codec.Codec) string {
	if c.Name == "lz4" {
		return ".tar.lz4"
	}
	return ".tar.zst"
}

// CodecOf is the compression of a part by its name.
func CodecOf(name string) (codec.Codec, error) {
	for _, c := range []codec.Codec{codec.Default, {Name: "lz4"}} {
		if strings.HasSuffix(name, extension(c)) {
			return c, nil
		}
	}
	return codec.Codec{}, fmt.Errorf("part %q has an unknown compression: a newer pgobj may have written it", name)
}

package part

import "math/bits"

// Usage adds up what one backup refers to in one part. The zero value is of a part to which nothing refers.
type Usage struct {
	bytes   int64
	touched uint64 // by slices of the stored part: whether anything in it is referred to
}

// slice is a 64th of the largest part.
const slice = MaxStored/64 + 1

// Refer counts n bytes of content in the frame that is stored as size bytes from off on.
func (u *Usage) Refer(off int64, size, n int) {
	u.bytes += int64(n)
	for i := off / slice; i <= (off+int64(size)-1)/slice; i++ {
		u.touched |= 1 << min(i, 63)
	}
}

// Live is how many bytes of content the backup keeps alive in the part, which is stored as size bytes and has raw bytes of
// content. What is referred to a hundred times, such as a template database's files, counts once: so no more is live than
// the frames hold in which anything is used.
func (u Usage) Live(size, raw int64) int64 {
	if size <= 0 {
		return u.bytes
	}
	frames := float64(bits.OnesCount64(u.touched)) * slice / float64(size)
	return min(u.bytes, int64(min(frames, 1)*float64(raw)))
}

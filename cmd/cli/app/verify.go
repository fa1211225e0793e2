package app

import (
	"fmt"
	"strconv"
	"strings"
)

// Percentage is a number over 0 and up to 100, with or without the sign.
type Percentage float64

func (p *Percentage) UnmarshalText(text []byte) error {
	v, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(string(text), "%")), 64)
	if err != nil || !(v > 0 && v <= 100) {
		return fmt.Errorf("%q is not a percentage: use a number above 0, up to 100", text)
	}
	*p = Percentage(v)
	return nil
}

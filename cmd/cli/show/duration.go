package show

import (
	"fmt"
	"strings"
	"time"
)

// Words is a duration as people say it.
func Words(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f seconds", d.Seconds())
	}
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := d / u.unit; n > 0 {
			parts = append(parts, Number(int64(n), u.name))
			d -= n * u.unit
		}
	}
	return strings.Join(parts, " ")
}

// Age is how long something is ago, as people say it: the two largest units.
func Age(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < 0:
		return "in the future"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd %02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

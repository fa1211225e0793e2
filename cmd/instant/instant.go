// Package instant reads points in time as people and PostgreSQL write them. It refuses to guess: a local time that the
// clocks showed twice or never, or whose zone is not known, is an error that says which times can be meant.
package instant

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // on a host that has none
)

// ErrForm is of a text that is no point in time at all. Other errors are of a time that is not one point.
var ErrForm = errors.New("not a time: write it as '2026-11-21 14:05:00+01'")

// Parse reads a date, or a date and a time of day, with or without seconds and their fractions, in ISO 8601 or
// PostgreSQL's form of it. Behind it may stand an offset from UTC (+01, +0100, +01:00, Z), an abbreviation that the local
// zone uses, UTC or GMT, or the name of a zone (Europe/Berlin). Without any of these it is a time of the zone local. A
// date alone is its midnight, as in PostgreSQL.
//
// In autumn a local time comes twice; PostgreSQL takes the later one (DetermineTimeZoneOffset), here it is an error, and so is
// one in spring that does not come at all. tz is the value of the environment variable TZ (where that is not set, see HostZone). When it is one
// that Go cannot load, as a POSIX string or a misspelt name, local is UTC and not what tz says, and local times are an error.
func Parse(text string, local *time.Location, tz string) (time.Time, error) {
	if t, ok := withOffset(text); ok {
		return t, nil
	}
	wall, zone, ok := wallClock(text)
	switch {
	case !ok:
		return time.Time{}, ErrForm
	case zone == "UTC" || zone == "GMT":
		return wall, nil
	case strings.Contains(zone, "/"):
		named, err := time.LoadLocation(zone)
		if err != nil {
			return time.Time{}, fmt.Errorf("there is no time zone %q: give the offset, as in '2026-11-21 14:05:00+01'", zone)
		}
		return within(wall, named, "")
	case !loaded(local, tz):
		return time.Time{}, fmt.Errorf("it is a local time, but the time zone of this process (%q, from the variable TZ or the host) cannot be loaded: give the offset, as in '2026-11-21 14:05:00+01', or set TZ to a name such as Europe/Berlin", tz)
	}
	return within(wall, local, zone)
}

// HostZone is the zone of a host where TZ is not set, and its name for Parse. link is /etc/localtime. On a host without zone
// data it leads to a file that is not there, and time.Local is UTC; the data that is embedded here has its name.
func HostZone(link string) (local *time.Location, tz string) {
	target, err := os.Readlink(link)
	if _, missing := os.Stat(link); err != nil || missing == nil {
		return time.Local, ""
	}
	_, name, _ := strings.Cut(target, "zoneinfo/")
	if zone, err := time.LoadLocation(name); err == nil && name != "" {
		return zone, name
	}
	return time.UTC, target
}

// loaded says whether local is what tz asks for: time.Local is UTC when it is not. An empty value is UTC.
func loaded(local *time.Location, tz string) bool {
	tz = strings.TrimPrefix(tz, ":")
	return tz == "" || tz == "UTC" || local.String() != "UTC"
}

var days = []string{"2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02"}

// withOffset reads what says its offset itself.
func withOffset(text string) (time.Time, bool) {
	for _, day := range days {
		for _, offset := range []string{"Z07:00", "-0700", "-07", " Z07:00", " -0700", " -07"} {
			if t, err := time.Parse(day+offset, text); err == nil {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

// wallClock reads a time of day, as if it were of UTC, and the zone after it.
func wallClock(text string) (wall time.Time, zone string, ok bool) {
	if m := regexp.MustCompile(`^(.*\d) ?([A-Za-z][A-Za-z0-9_+/-]*)$`).FindStringSubmatch(text); m != nil {
		text, zone = m[1], m[2]
	}
	for _, day := range days {
		if t, err := time.Parse(day, text); err == nil {
			return t, zone, true
		}
	}
	return time.Time{}, "", false
}

// within is the one point in time at which the clocks of a zone show wall, with an abbreviation unless it is empty.
func within(wall time.Time, zone *time.Location, abbreviation string) (time.Time, error) {
	var found []time.Time
	for _, t := range readings(wall, zone) {
		if name, _ := t.Zone(); abbreviation == "" || abbreviation == name {
			found = append(found, t)
		}
	}
	shown := wall.Format("2006-01-02 15:04:05.999999")
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return time.Time{}, fmt.Errorf("the clocks of %s show %s twice: give the offset: the first time is '%s', the second '%s'", zone, shown, offsetForm(found[0]), offsetForm(found[1]))
	case abbreviation != "":
		return time.Time{}, fmt.Errorf("%q is not a time zone abbreviation in %s at that time: give the offset, as in '2026-11-21 14:05:00+01'", abbreviation, strings.Replace(zone.String(), "Local", "this host's zone", 1))
	}
	before := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), zone)
	return time.Time{}, fmt.Errorf("the clocks of %s never show %s, because they are put forward at that time: give the offset, as in '%s'", zone, shown, offsetForm(before))
}

// readings are the points in time, in order, at which the clocks of a zone show wall: with the offset that holds about then, with
// the one before, and with the one after.
func readings(wall time.Time, zone *time.Location) (found []time.Time) {
	about := wall.In(zone)
	offsets := []time.Time{about}
	begin, end := about.ZoneBounds()
	if !begin.IsZero() {
		offsets = append(offsets, begin.Add(-1))
	}
	if !end.IsZero() {
		offsets = append(offsets, end)
	}
	for _, o := range offsets {
		_, seconds := o.Zone()
		t := wall.Add(-time.Duration(seconds) * time.Second).In(zone)
		if t.Format(time.DateTime) == wall.Format(time.DateTime) {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, time.Time.Compare)
	return slices.CompactFunc(found, time.Time.Equal)
}

func offsetForm(t time.Time) string { return t.Format("2006-01-02 15:04:05.999999-07:00") }

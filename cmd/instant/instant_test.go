package instant

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ text, zone, want string }{
		{"2026-11-21 14:05:00+01", "UTC", "2026-11-21T13:05:00Z"},
		{"2026-11-21 14:05:00.123456+00", "UTC", "2026-11-21T14:05:00.123456Z"},
		{"2026-11-21T14:05:00Z", "UTC", "2026-11-21T14:05:00Z"},
		{"2026-11-21 14:05:00 -03:30", "UTC", "2026-11-21T17:35:00Z"},
		{"2026-11-21 14:05:00-0800", "UTC", "2026-11-21T22:05:00Z"},
		{"2026-11-21 14:05:00 UTC", "Europe/Berlin", "2026-11-21T14:05:00Z"},
		{"2026-11-30 15:35", "UTC", "2026-11-30T15:35:00Z"},
		{"2026-11-30 15:35", "Europe/Berlin", "2026-11-30T14:35:00Z"},
		{"2026-11-30T15:35+05:30", "Europe/Berlin", "2026-11-30T10:05:00Z"},
		{"2026-11-30", "Europe/Berlin", "2026-11-29T23:00:00Z"},
		{"2026-11-30+00", "Europe/Berlin", "2026-11-30T00:00:00Z"},
		{"2026-07-01 12:00:00", "Europe/Berlin", "2026-07-01T10:00:00Z"},
		{"2026-07-01 12:00:00 America/New_York", "Europe/Berlin", "2026-07-01T16:00:00Z"},
		{"2026-07-01 12:00:00 CEST", "Europe/Berlin", "2026-07-01T10:00:00Z"},
		// The hour that comes twice, with what tells which one, and the minutes around it.
		{"2026-10-25 02:30:00 CEST", "Europe/Berlin", "2026-10-25T00:30:00Z"},
		{"2026-10-25 02:30:00 CET", "Europe/Berlin", "2026-10-25T01:30:00Z"},
		{"2026-10-25 02:30:00+02", "Europe/Berlin", "2026-10-25T00:30:00Z"},
		{"2026-10-25 01:59:59.999999", "Europe/Berlin", "2026-10-24T23:59:59.999999Z"},
		{"2026-10-25 03:00:00", "Europe/Berlin", "2026-10-25T02:00:00Z"},
		{"2026-03-29 01:59:59", "Europe/Berlin", "2026-03-29T00:59:59Z"},
		{"2026-03-29 03:00:00", "Europe/Berlin", "2026-03-29T01:00:00Z"},
		{"2026-04-05 12:00", "Australia/Lord_Howe", "2026-04-05T01:30:00Z"},
	} {
		got, err := Parse(c.text, zone(t, c.zone), c.zone)
		if err != nil || got.UTC().Format("2006-01-02T15:04:05.999999Z07:00") != c.want {
			t.Errorf("%q in %s is %v (%v), want %s", c.text, c.zone, got, err, c.want)
		}
	}
}

// TestRefused: what is not one point in time is refused, with what can be meant.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ text, zone, tz, says string }{
		{"2026-10-25 02:30:00", "Europe/Berlin", "", "'2026-10-25 02:30:00+02:00', the second '2026-10-25 02:30:00+01:00'"},
		{"2026-10-25 02:00", "Europe/Berlin", "", "twice"},
		{"2026-10-25 02:59:59.999999", "Europe/Berlin", "", "twice"},
		{"2026-11-01 01:30 America/New_York", "UTC", "", "'2026-11-01 01:30:00-04:00', the second '2026-11-01 01:30:00-05:00'"},
		{"2026-04-05 01:45", "Australia/Lord_Howe", "", "'2026-04-05 01:45:00+11:00', the second '2026-04-05 01:45:00+10:30'"},
		{"2026-03-29 02:30:00", "Europe/Berlin", "", "never show 2026-03-29 02:30:00"},
		{"2018-11-04", "America/Sao_Paulo", "", "never show 2018-11-04 00:00:00"},
		{"2011-12-30 12:00", "Pacific/Apia", "", "never"}, // the day that was left out
		{"2026-07-01 12:00:00 CET", "Europe/Berlin", "", `"CET" is not a time zone abbreviation in Europe/Berlin`},
		{"2026-11-21 14:05:00 XYZ", "UTC", "", `"XYZ"`},
		{"2026-11-21 14:05:00 Europe/Berlni", "UTC", "", `"Europe/Berlni"`},
		{"2026-11-21 14:05:00", "UTC", "<+01>-1", `"<+01>-1"`},
		{"2026-11-21", "UTC", "Europe/Berlni", `"Europe/Berlni"`},
		{"2026-11-21 14:05", "UTC", "CET-1CEST,M3.5.0,M10.5.0/3", "cannot be loaded"},
		{"2026-11-21 14:05:00 CET", "UTC", ":CET-1", "cannot be loaded"},
		{"2026-11-21 14:05:00", "UTC", "/etc/localtime", "cannot be loaded"},
	} {
		got, err := Parse(c.text, zone(t, c.zone), c.tz)
		if err == nil || errors.Is(err, ErrForm) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q in %s (TZ=%s) is %v (%v), want an error with %q", c.text, c.zone, c.tz, got, err, c.says)
		}
	}
	for _, text := range []string{"", " ", "yesterday", "14:05", "2026", "20261116T01", "2026-13-01", "2026-02-30", "2026-11-21 25:00", "1700000000", "latest", "2026-11-21 14:05:00 +1 x", "infinity"} {
		if got, err := Parse(text, time.UTC, ""); !errors.Is(err, ErrForm) {
			t.Errorf("%q is %v (%v)", text, got, err)
		}
	}
	// An offset needs no zone, so it does not matter that there is none.
	if _, err := Parse("2026-11-21 14:05:00+01", time.UTC, "<+01>-1"); err != nil {
		t.Error(err)
	}
}

// TestHostZone: a host whose zone is a link to a file that is not installed has that zone all the same.
func TestHostZone(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		dir + "/zoneinfo/Europe/Berlin": "2026-11-30T14:35:00Z", "../nothing/zoneinfo/Etc/UTC": "2026-11-30T15:35:00Z", dir + "/zoneinfo/Europe/Berlni": "", dir + "/elsewhere": "", dir + "/zoneinfo/": "",
	} {
		link := filepath.Join(t.TempDir(), "localtime")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		zone, tz := HostZone(link)
		got, err := Parse("2026-11-30 15:35", zone, tz)
		if (err == nil) != (want != "") || err == nil && got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s: %v (%v), want %s", target, got, err, want)
		}
	}
	for _, link := range []string{there, filepath.Join(dir, "none")} {
		if zone, tz := HostZone(link); zone != time.Local || tz != "" {
			t.Errorf("%s: %v %q", link, zone, tz)
		}
	}
}

// Package retention decides which backups and which WAL stay, and tells the reason for each. Decide is pure: the
// same log, timelines and time give the same plan. It refuses to list, to delete, and to trust a clock with
// more than it has to. Package sweep below it gathers what Decide needs and carries its plans out.
package retention

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrPolicy says that a policy, or a span of time in one, cannot be understood.
var ErrPolicy = errors.New("not a retention policy")

// Span is a length of time as calendars count: 2 weeks, 3 months. The zero Span is none.
type Span struct {
	N    int
	Unit string // "hour", "day", "week", "month" or "year"
}

// Before is the time one span before t. A month before 31 March is 28 February, not 3 March: a month is
// never shorter than its name promises.
func (s Span) Before(t time.Time) time.Time {
	t = t.UTC()
	months := 0
	switch s.Unit {
	case "hour":
		return t.Add(-time.Duration(s.N) * time.Hour)
	case "day":
		return t.AddDate(0, 0, -s.N)
	case "week":
		return t.AddDate(0, 0, -7*s.N)
	case "month":
		months = s.N
	case "year":
		months = 12 * s.N
	}
	b := t.AddDate(0, -months, 0)
	if b.Day() != t.Day() {
		b = b.AddDate(0, 0, -b.Day())
	}
	return b
}

func (s Span) String() string {
	if s.N == 1 {
		return "1 " + s.Unit
	}
	return fmt.Sprintf("%d %ss", s.N, s.Unit)
}

// ParseSpan reads "14 days", "14d", "2 weeks", "6 months", "1y" or "12h".
func ParseSpan(text string) (Span, error) {
	p := parser{words: words(text), text: text}
	s := p.span()
	if p.err == nil && len(p.words) > 0 {
		p.fail("%q is too long", p.words[0])
	}
	return s, p.err
}

// Policy says what is kept. A backup stays when any of its rules keeps it.
type Policy struct {
	Redundancy int  // the newest backups, by number
	Window     Span // every time from a Span ago on can be restored

	// The newest backup of each of the latest days, weeks (ISO), months and years (UTC) that have one.
	Daily, Weekly, Monthly, Yearly int

	// PITR bounds how long WAL is kept for the sake of times between backups: every time from a Span ago on can be
	// restored, and older backups keep only the WAL that makes them consistent. None: each backup that stays
	// keeps all WAL from its start on.
	PITR Span
}

// keeps says whether the policy keeps any backups at all.
func (p Policy) keeps() bool {
	return p.Redundancy > 0 || p.Window.N > 0 || p.Daily > 0 || p.Weekly > 0 || p.Monthly > 0 || p.Yearly > 0
}

// ParsePolicy reads rules, in any case, with commas or semicolons between them or not:
//
//	REDUNDANCY 3
//	RECOVERY WINDOW OF 4 WEEKS
//	keep daily 14 weekly 8 monthly 12 yearly 3
//	pitr 14 days
func ParsePolicy(text string) (Policy, error) {
	p := parser{words: words(text), text: text}
	var out Policy
	seen := map[string]bool{}
	for len(p.words) > 0 && p.err == nil {
		rule := p.next()
		if seen[rule] {
			p.fail("%q is given twice", rule)
		}
		seen[rule] = true
		switch rule {
		case "redundancy":
			out.Redundancy = p.number()
		case "recovery":
			p.expect("window")
			p.expect("of")
			out.Window = p.span()
		case "keep":
			p.keep(&out)
		case "pitr":
			out.PITR = p.span()
		default:
			p.fail("%q is not a rule", rule)
		}
	}
	if p.err == nil && !out.keeps() {
		p.fail("it keeps no backup")
	}
	return out, p.err
}

// String is the policy in the words that ParsePolicy reads.
func (p Policy) String() string {
	var rules []string
	if p.Redundancy > 0 {
		rules = append(rules, fmt.Sprintf("redundancy %d", p.Redundancy))
	}
	if p.Window.N > 0 {
		rules = append(rules, "recovery window of "+p.Window.String())
	}
	keep := ""
	for _, k := range p.calendar() {
		if k.n > 0 {
			keep += fmt.Sprintf(" %s %d", k.name, k.n)
		}
	}
	if keep != "" {
		rules = append(rules, "keep"+keep)
	}
	if p.PITR.N > 0 {
		rules = append(rules, "pitr "+p.PITR.String())
	}
	return strings.Join(rules, ", ")
}

// period is one line of the calendar: the newest backup of each of the latest n of them stays.
type period struct {
	name, what string
	n          int
	of         func(time.Time) string // names the period that a time is in
}

func (p Policy) calendar() []period {
	return []period{
		{"daily", "day", p.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", "week", p.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) }},
		{"monthly", "month", p.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", "year", p.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
}

// parser goes through the words of a policy and keeps the first error.
type parser struct {
	words []string
	text  string
	err   error
}

func words(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return strings.ContainsRune(" \t\r\n,;:=", r) })
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %q: %s (such as: REDUNDANCY 3, or RECOVERY WINDOW OF 4 WEEKS, or keep daily 14 weekly 8 monthly 12, and pitr 14 days with any of them)",
			ErrPolicy, p.text, fmt.Sprintf(format, args...))
	}
}

func (p *parser) next() string {
	if len(p.words) == 0 {
		p.fail("it ends too early")
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) expect(want string) {
	if w := p.next(); w != want {
		p.fail("%q should be %q", w, want)
	}
}

// most bounds numbers, so that no typing error makes a span that the calendar cannot count.
const most = 100_000

func (p *parser) number() int {
	w := p.next()
	n, err := strconv.Atoi(w)
	if err != nil || n < 1 || n > most {
		p.fail("%q should be a number from 1 to %d", w, most)
	}
	return n
}

var units = map[string]string{
	"h": "hour", "hour": "hour", "hours": "hour", "d": "day", "day": "day", "days": "day", "w": "week", "week": "week", "weeks": "week",
	"m": "month", "month": "month", "months": "month", "y": "year", "year": "year", "years": "year",
}

// span reads "14 days" and "14d".
func (p *parser) span() Span {
	w := p.next()
	digits := strings.TrimRight(w, "abcdefghijklmnopqrstuvwxyz")
	unit := w[len(digits):]
	p.words = append([]string{digits}, p.words...)
	s := Span{N: p.number()}
	if unit == "" {
		unit = p.next()
	}
	var ok bool
	if s.Unit, ok = units[unit]; !ok {
		p.fail("%q should be hours, days, weeks, months or years", unit)
	}
	return s
}

// keep reads "daily 14 weekly 8 …", as long as it goes on.
func (p *parser) keep(out *Policy) {
	counts := map[string]*int{"daily": &out.Daily, "weekly": &out.Weekly, "monthly": &out.Monthly, "yearly": &out.Yearly}
	for first := true; ; first = false {
		if len(p.words) == 0 || counts[p.words[0]] == nil {
			if first {
				p.fail("keep needs daily, weekly, monthly or yearly")
			}
			return
		}
		w := p.next()
		if *counts[w] != 0 {
			p.fail("%q is given twice", w)
		}
		*counts[w] = p.number()
	}
}

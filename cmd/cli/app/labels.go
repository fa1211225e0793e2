package app

import (
	"regexp"
	"strings"
	"unicode"
)

const maxLabelValue = 1024

// SplitLabels reads a list NAME=VALUE,NAME=VALUE.
func SplitLabels(list string) (labels []string) {
	for label := range strings.SplitSeq(list, ",") {
		labels = append(labels, strings.TrimSpace(label))
	}
	return labels
}

// ParseLabels reads NAME=VALUE, each name once.
func ParseLabels(args []string) (map[string]string, error) {
	labelName := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$`) // fits into a table and a filter of any tool
	var labels map[string]string
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		_, again := labels[name]
		switch {
		case !ok || !labelName.MatchString(name):
			return nil, Usagef("--label %q: use NAME=VALUE, the name of at most 63 letters, digits and . _ - /", arg)
		case again:
			return nil, Usagef("--label %s is given twice", name)
		case len(value) > maxLabelValue || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }):
			return nil, Usagef("--label %s: the value must be one printable line of at most %d bytes", name, maxLabelValue)
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[name] = value
	}
	return labels, nil
}

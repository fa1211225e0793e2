package show

import (
	"regexp"
	"strings"
)

// ShellQuote makes one word of s for a POSIX shell.
func ShellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=+,@") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// CommandLine is how pgobj was called, without --plan.
func CommandLine(args []string) string {
	line := "pgobj"
	for _, arg := range args {
		if arg != "--plan" {
			line += " " + HidePassword(ShellQuote(arg))
		}
	}
	return line
}

// HidePassword keeps a connection string's password off the screen, and rather too much with it than too
// little: quotes within quotes make its end hard to tell. A quote that is open there is closed, so that a command line that is
// printed stays one.
func HidePassword(s string) string {
	secretSetting := regexp.MustCompile(`(?i)((?:password|secret)\s*=).+`)
	passwordInURL := regexp.MustCompile(`(://[^/\s:@]*:)\S*@`)
	if at := secretSetting.FindStringSubmatchIndex(s); at != nil {
		hidden := s[at[3]:]
		s = s[:at[3]] + "…"
		if strings.Count(s, "'")%2 == 1 && strings.HasSuffix(hidden, "'") {
			s += "'"
		}
	}
	return passwordInURL.ReplaceAllString(s, "$1…@")
}

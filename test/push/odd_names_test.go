package push

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// everyOddName is oddNames, every byte that a name may have (what is no letter or digit at either end of a name too), and
// what means something to us, to tar, to a shell or to another file system. Each is there once.
func everyOddName() []string {
	names := slices.Clone(site.OddNames)
	for b := 1; b < 256; b++ {
		c := string([]byte{byte(b)})
		switch {
		case c == "/":
			continue
		case c != ".":
			names = append(names, c)
		}
		if b < ' ' || strings.Contains(" !\"#$%&'()*+,-.:;<=>?@[\\]^`{|}~\x7f\x80\xff", c) {
			names = append(names, c+"before", "after"+c)
		}
	}
	names = append(names, "x.tar.zst", ".pgobj-manifest.jsonl", "backup.json", "pgobj_restore.json", "x.pgobj", "pg_control.pgobj", "pg_control.before",
		"000000010000000000000001", "000000010000000000000001.zst", "00000002.history", "16384", "16384.1", "16384_fsm", "16384_init", "PG_VERSION", "data", "main",
		"%00", "%2F", "..%2f..%2fetc", "%%", "%s%n", "C:", `C:\x`, "host:path", "file://x", "a::b", "@file", "--", "-rf", "--no-recursion", "-C", "..data", "....",
		"a\\nb", `\x00`, `\u0000`, `\"`, "\"},{\"path\":\"x\"", "path\x1e", "\r\n", "\n\n", "\t\v\f", "~root", "$(id)", "{a,b}", "[a-z]", "a;id", "a|b", "&&", "CON", "NUL",
		"Name", "name", "NAME", "\u00c5", "A\u030a", "\u212b", "e\u0301", "\ufb01", "fi", "\u1e9b\u0323", "\uac00", "\u1100\u1161", "\u0130", "\u0131", "ß", "\u1e9e", // normal forms and cases
		"\ufeff", "\ufffd", "\u200b", "\u202egnp.exe", "\u0085", "\u2029", "\u00a0", "\U0001f418", "\U0010ffff", // what is not seen
		"\xc0\xaf", "\xc0\x80", "\xed\xa0\x80", "\xed\xa0\xbd\xed\xb0\x98", "\xf4\x90\x80\x80", "\xe6\x97", "\x80\x80", "\xfe\xff", "ok\xffok") // no UTF-8
	for _, n := range []int{98, 99, 100, 101, 154, 155, 156, 249, 250, 254, 255} { // tar's fields, and the most that Linux has
		names = append(names, strings.Repeat("x", n))
	}
	names = append(names, strings.Repeat("日", 85), strings.Repeat("\n", 255), strings.Repeat("\xff", 255), strings.Repeat(" ", 255), strings.Repeat("..", 127)+".",
		strings.Repeat("\u0301", 127)+"e", strings.Repeat("y", 247)+".tar.zst")
	slices.Sort(names)
	return slices.Compact(names)
}

// TestOddNames: whatever a file or a directory is called, it comes back under that name with its content, is found by
// that name, and is kept by a restore that finds it there.
func TestOddNames(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	names := everyOddName()
	if len(names) < 200 {
		t.Fatalf("only %d names", len(names))
	}
	want := makeOddFiles(t, s.Data, names)
	b := s.Backup(t)
	target := filepath.Join(testenv.Dir(t), "no UTF-8 \xe9", "data")
	s.Must(t, "backup-fetch", target)
	sameOddFiles(t, s.Data, target, want)
	s.Verified(t, target)

	for i, name := range names { // some are changed, some are lost, and some are more than there should be
		file := filepath.Join(target, "file", name)
		var err error
		switch i % 4 {
		case 0:
			site.WriteFile(t, file, "changed", 0o600)
		case 1:
			err = os.Remove(file)
		case 2:
			if len(name) < 255 {
				site.WriteFile(t, file+"+", "not in the backup", 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.Must(t, "backup-fetch", "--delta", target)
	sameOddFiles(t, s.Data, target, want)
	for _, p := range []string{"file/\xc0\xaf", "file/new\nline", "file/" + strings.Repeat("\xff", 255), "file/-rf"} {
		if o := s.Run(t, "backup-cat", b.Backup, p); o.Code != 0 || o.Out != want[p] {
			t.Errorf("backup-cat of %q: %v", p, o)
		}
	}
	t.Logf("%d names of %d files", len(names), len(want))
}

// makeOddFiles gives each name to a file, and some, because the time goes into syncs, to a directory with a file too. It
// returns what they have in them.
func makeOddFiles(t testing.TB, data string, names []string) map[string]string {
	t.Helper()
	content := map[string]string{}
	for i, name := range names {
		paths := []string{"file/" + name, "directory/" + name + "/" + name}
		if i%3 != 0 {
			paths = paths[:1]
		}
		for _, p := range paths {
			full := filepath.Join(data, p)
			if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
				t.Fatal(err)
			}
			content[p] = strings.Repeat(p+"\n", len(content)%50)
			site.WriteFile(t, full, content[p], 0o600)
		}
	}
	for _, dir := range []string{"file", "directory"} {
		if err := testenv.ChownPostgres(filepath.Join(data, dir)); err != nil {
			t.Fatal(err)
		}
	}
	return content
}

func sameOddFiles(t testing.TB, data, target string, want map[string]string) {
	t.Helper()
	for _, dir := range []string{"file", "directory"} {
		source, got := site.Survey(t, filepath.Join(data, dir)), site.Survey(t, filepath.Join(target, dir))
		for p, x := range source {
			if y := got[p]; x.String() != y.String() {
				t.Errorf("%q of %s is restored as %v, was %v", p, dir, y, x)
			}
			delete(got, p)
		}
		if len(got) != 0 {
			t.Errorf("restored, but not in the source: %q", got)
		}
	}
	for p, text := range want {
		if data, err := os.ReadFile(filepath.Join(target, p)); err != nil || string(data) != text {
			t.Errorf("%q is restored as %.40q (%v), was %.40q", p, data, err, text)
		}
	}
}

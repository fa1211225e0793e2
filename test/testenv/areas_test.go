package testenv

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// make test AREA=... leaves nothing out: each end-to-end test belongs to one area, and each package with tests to one at least.
func TestAreasHoldEveryTest(t *testing.T) {
	root, err := ModuleRoot()
	must(t, root, errors.Join(err, noteSources(root)))
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "test", "run"), "--list")
	out, err := cmd.Output()
	must(t, out, err)
	listed := map[string]int{}
	for line := range strings.Lines(string(out)) {
		area, members, _ := strings.Cut(line, ":")
		if strings.TrimSpace(members) == "" && area != "other" {
			t.Errorf("the area %s has no test", area)
		}
		for _, m := range strings.Fields(members) {
			listed[m]++
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "test", "*_test.go"))
	must(t, files, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, text, err)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			if n := listed[string(m[1])]; n != 1 {
				t.Errorf("%s of %s is in %d areas, want one", m[1], filepath.Base(file), n)
			}
		}
	}
	for _, dir := range packagesWithTests(t, root) {
		if dir != "test" && !slices.ContainsFunc(slices.Collect(maps.Keys(listed)), func(m string) bool {
			tree, isTree := strings.CutSuffix(strings.TrimPrefix(m, "./"), "/...")
			return isTree && (dir == tree || strings.HasPrefix(dir, tree+"/"))
		}) {
			t.Errorf("no area has the tests of %s", dir)
		}
	}
}

// packagesWithTests returns the directories below root in which there are tests, as relative paths.
func packagesWithTests(t *testing.T, root string) (dirs []string) {
	t.Helper()
	files, err := exec.CommandContext(t.Context(), "find", root, "-name", "*_test.go", "-printf", "%P\n").Output()
	must(t, files, err)
	for _, f := range strings.Fields(string(files)) {
		if dir := filepath.Dir(f); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

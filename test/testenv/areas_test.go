package testenv

import (
	"errors"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// make test AREA=... leaves nothing out: each package with tests belongs to one area at least.
func TestAreasHoldEveryTest(t *testing.T) {
	root, err := ModuleRoot()
	must(t, root, errors.Join(err, noteSources(root)))
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "test", "run"), "--list")
	out, err := cmd.Output()
	must(t, out, err)
	listed := map[string]int{}
	for line := range strings.Lines(string(out)) {
		area, members, _ := strings.Cut(line, ":")
		if strings.TrimSpace(members) == "" {
			t.Errorf("the area %s has no test", area)
		}
		for _, m := range strings.Fields(members) {
			listed[m]++
		}
	}
	for _, dir := range packagesWithTests(t, root) {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(listed)), func(m string) bool {
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

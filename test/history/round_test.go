package history

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// round restores so many of the backups that are listed, each to its own end and to a mark after it. The server is stopped meanwhile,
// and its tablespaces are out of the way, as on another host.
func (h *history) round(most int) {
	h.Helper()
	m := h.mark()
	h.settle()
	if h.standby != nil {
		h.unfollow()
	}
	ids := h.list()
	windows := h.windows()
	if h.IntN(2) == 0 {
		h.primary.Stop(h, "fast")
	} else {
		h.crash()
	}
	h.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	ids = ids[:min(most, len(ids))]
	h.note("%d backups are restored", len(ids))
	for _, id := range ids {
		h.toItsEnd(h.backups[id])
		h.toAMark(h.backups[id])
	}
	h.toTheLast(m)
	h.toAWindow(windows)
}

// wish is a restore that is asked for.
type wish struct {
	args     []string
	contents *contents // nil: not known
	kept     bool      // unlogged tables are as they were
	may      string    // why it may be refused; empty: it may not
}

// toItsEnd restores a backup as it was when it ended.
func (h *history) toItsEnd(b *backup) {
	h.Helper()
	w := wish{args: []string{b.ID, "--target", "immediate"}, contents: b.contents}
	switch {
	case b.From == "offline":
		w.args, w.kept = []string{b.ID}, true
	case h.IntN(2) == 0:
		w.args = append(w.args, "--target-action", "promote")
	}
	h.restore(w)
}

// toAMark restores a backup to a mark that is after it.
func (h *history) toAMark(b *backup) {
	h.Helper()
	type goal struct {
		*mark
		along int
	}
	var goals []goal
	for _, m := range h.marks {
		for along := range h.archived {
			if b.stop <= m.at && h.on(b.Timeline, b.stop, m.timeline) && h.on(m.timeline, m.end, along) && m.end <= h.archived[along] {
				goals = append(goals, goal{m, along})
			}
		}
	}
	slices.SortFunc(goals, func(a, b goal) int { return cmp.Or(strings.Compare(a.name, b.name), a.along-b.along) })
	if len(goals) == 0 {
		h.note("no mark is after backup %s", b.ID)
		return
	}
	g := pick(h, goals)
	target := pick(h, [][]string{{"--target-name", g.name}, {"--target-lsn", g.at.String()}, {"--target-lsn", g.at.String(), "--exclusive"}, {"--target-time", g.time}, {"--target-xid", g.xid}})
	args := append([]string{b.ID, "--target-timeline", strconv.Itoa(g.along)}, target...)
	if h.IntN(2) == 0 {
		args = append(args, "--target-action", "promote")
	}
	h.restore(wish{args: args, contents: g.contents, may: h.barred(b, g.along, g.at)})
}

// barred tells why recovery from a backup along a timeline may not get to a place.
func (h *history) barred(b *backup, along int, to lsn) string {
	for _, x := range h.barriers {
		if b.stop <= x.to && x.from <= to && h.on(x.timeline, x.from, along) {
			return fmt.Sprintf("%s from %v on", x.why, x.from)
		}
	}
	return ""
}

// toTheLast restores the newest backup to the end of the archive.
func (h *history) toTheLast(m *mark) {
	h.Helper()
	ids := h.list()
	b := h.backups[ids[len(ids)-1]]
	may := h.barred(b, h.timeline, m.at)
	if !h.on(b.Timeline, b.stop, h.timeline) {
		may = "it is on a timeline that was left"
	}
	args := []string{b.ID, "--target-timeline", "latest"}
	if b.From != "offline" && h.IntN(3) == 0 {
		args = args[:1]
	}
	h.restore(wish{args: args, contents: m.contents, may: may})
}

// window is what pitr-windows promises.
type window struct {
	Timeline int       `json:"timeline"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Backups  []string  `json:"backups"`
}

func (h *history) windows() (all []window) {
	h.Helper()
	o := h.run(nil, ok, "pitr-windows", "--json")
	h.must(json.Unmarshal([]byte(o.out), &all))
	return slices.DeleteFunc(all, func(w window) bool { return w.To.IsZero() })
}

// toAWindow goes to any time that is promised. What is there is known only by chance: that it gets there counts.
func (h *history) toAWindow(all []window) {
	h.Helper()
	if len(all) == 0 {
		return
	}
	w := pick(h, all)
	at := w.From.Add(time.Duration(h.Int64N(int64(w.To.Sub(w.From)) + 1)))
	h.restore(wish{args: []string{"--target-time", at.UTC().Format("2006-01-02 15:04:05.999999Z07:00"), "--target-timeline", strconv.Itoa(w.Timeline), "--target-action", "promote"}})
}

// restore does it, and holds that it is done, or refused where that is right.
func (h *history) restore(w wish) {
	h.Helper()
	defer h.aside()()
	root := filepath.Join(h.dir, "copy")
	dir := filepath.Join(root, "data")
	h.mkdir(root)
	defer h.remove(root)
	args := append([]string{"backup-fetch", dir, "--tablespace-map-all", filepath.Join(root, "spaces")}, w.args...)
	o := h.wait(h.start(nil, args...))
	h.note("backup-fetch %s: %d", strings.Join(w.args, " "), o.code)
	if o.code == 14 && w.may != "" {
		h.note("it may be refused (%s): %s", w.may, lastLines(o.err, 2))
		h.sum.add(&h.sum.refused)
		return
	}
	if o.code != 0 {
		h.Fatalf("it should be restored: %v", o)
	}
	c, err := h.open(dir)
	defer func() { h.must(c.Close()) }()
	if err != nil {
		h.Fatalf("backup-fetch has promised it: %v\nbut: %v", o, err)
	}
	if w.contents != nil {
		h.compare(fmt.Sprint("what was restored by ", w.args), c, w.contents, w.kept)
	}
	if !w.kept {
		h.run(nil, ok, "restore-check", dir)
	}
}

// aside moves the tablespaces of the stopped servers out of the way, and makes empty places for those that a recovery
// makes again; what it returns brings them back.
func (h *history) aside() func() {
	h.Helper()
	all, err := filepath.Glob(filepath.Join(h.dir, "n*", "spaces"))
	h.must(err)
	all = append(all, h.spaces)
	for _, dir := range all {
		if exists(dir) {
			h.must(os.Rename(dir, dir+".aside"))
		}
	}
	for _, p := range h.places {
		h.mkdir(filepath.Dir(p))
		h.mkdir(p)
	}
	return func() {
		for _, dir := range all {
			h.remove(dir)
			if exists(dir + ".aside") {
				h.must(os.Rename(dir+".aside", dir))
			}
		}
	}
}

// command is a program of PostgreSQL's.
func (h *history) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(h.Context(), name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	return cmd
}

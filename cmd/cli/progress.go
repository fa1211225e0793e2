package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/pgobj/pgobj/backup"
)

// show prints the progress until the function that it returns is called: one line that is drawn over on a
// terminal, a plain line now and then elsewhere.
func (a *app) show(what string, p *backup.Progress) (stop func()) {
	every, begin, end := 30*time.Second, "", "\n"
	if isTerminal(a.Err) {
		every, begin, end = 500*time.Millisecond, "\r", "\x1b[K"
	}
	start := time.Now()
	quit, done := make(chan struct{}), make(chan struct{})
	go func() { // stop waits for it
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprint(a.Err, begin+progressLine(what, p, time.Since(start))+end)
			case <-quit:
				if begin != "" {
					fmt.Fprint(a.Err, begin+end)
				}
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func progressLine(what string, p *backup.Progress, elapsed time.Duration) string {
	done, total := p.Bytes.Load(), p.TotalBytes.Load()
	rate := float64(done) / elapsed.Seconds()
	line := fmt.Sprintf("%s: %s, %s", what, number(p.Files.Load(), "file"), size(done))
	if total = max(total, done); p.TotalBytes.Load() > 0 { // files grow, and some come that nobody had counted
		line += fmt.Sprintf(" of %s (%d %%)", size(total), int(100*float64(done)/float64(total)))
	}
	line += fmt.Sprintf(", %s/s", size(int64(rate)))
	if total > done && rate > 0 {
		line += fmt.Sprintf(", %s left", time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
	}
	return line
}

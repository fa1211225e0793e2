package app

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// Show prints the progress until the function that it returns is called: one line that is drawn over on a
// terminal, a plain line now and then elsewhere.
func (a *App) Show(what string, p *backup.Progress) (stop func()) {
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
				fmt.Fprint(a.Err, begin+show.ProgressLine(what, p, time.Since(start))+end)
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

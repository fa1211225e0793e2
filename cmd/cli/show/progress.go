package show

import (
	"fmt"
	"time"

	"github.com/pgobj/pgobj/backup"
)

func ProgressLine(what string, p *backup.Progress, elapsed time.Duration) string {
	done, total := p.Bytes.Load(), p.TotalBytes.Load()
	rate := float64(done) / elapsed.Seconds()
	line := fmt.Sprintf("%s: %s, %s", what, Number(p.Files.Load(), "file"), Size(done))
	if total = max(total, done); p.TotalBytes.Load() > 0 { // files grow, and some come that nobody had counted
		line += fmt.Sprintf(" of %s (%d %%)", Size(total), int(100*float64(done)/float64(total)))
	}
	line += fmt.Sprintf(", %s/s", Size(int64(rate)))
	if total > done && rate > 0 {
		line += fmt.Sprintf(", %s left", time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
	}
	return line
}

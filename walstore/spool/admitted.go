package spool

import (
	"path/filepath"
	"time"
)

const admittedPrefix = "admitted-"

// AdmittedLife is the longest time for which an admission is believed: somebody may empty the repository by hand.
const AdmittedLife = 24 * time.Hour

// admission says that the archive of the scope takes WAL of a cluster.
type admission struct {
	Scope    string    `json:"scope"`
	SystemID uint64    `json:"system_id,string"`
	Time     time.Time `json:"time"`
	Until    time.Time `json:"until"`
}

func (m *Markers) admitted() string { return filepath.Join(m.dir, admittedPrefix+m.scope) }

// Admit remembers for life, at most AdmittedLife, that the archive takes WAL of a cluster. It makes the directory, if there is none.
func (m *Markers) Admit(systemID uint64, life time.Duration) error {
	if err := makeDir(m.dir); err != nil {
		return err
	}
	now := m.now().UTC()
	return seal(m.admitted(), admission{m.scope, systemID, now, now.Add(min(life, AdmittedLife))})
}

// Admitted says whether Admit was told so, and that is not too long ago.
func (m *Markers) Admitted(systemID uint64) bool {
	var a admission
	now := m.now()
	return unseal(m.admitted(), &a) && a.Scope == m.scope && a.SystemID == systemID && now.After(a.Time.Add(-time.Minute)) && now.Before(a.Until)
}

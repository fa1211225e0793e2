package cli

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/backups"
	"github.com/pgobj/pgobj/cmd/cli/lists"
)

// TestJSONIsDocumented: scripts are written from JSON.md, so each member that is printed is in it, in the section of
// its command.
func TestJSONIsDocumented(t *testing.T) {
	text, err := os.ReadFile("JSON.md")
	if err != nil {
		t.Fatal(err)
	}
	for command, v := range map[string]any{"Failures": failure{}, "backup-list": app.Listed{}, "backup-show": lists.Shown{}, "backup-files": lists.ListedFile{}, "server-list": lists.ServerEntry{},
		"restore-check": backups.CheckedRestore{}} {
		_, section, ok := strings.Cut(string(text), "\n## "+command)
		if !ok {
			t.Errorf("JSON.md has no section on %s", command)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		names := map[string]bool{}
		jsonNames(reflect.TypeOf(v), names)
		if command == "backup-show" { // which refers to the list
			inList := map[string]bool{}
			jsonNames(reflect.TypeFor[app.Listed](), inList)
			for name := range inList {
				if name != "next" {
					delete(names, name)
				}
			}
		}
		if len(names) == 0 {
			t.Errorf("%s prints nothing?", command)
		}
		for name := range names {
			if !strings.Contains(section, "`"+name+"`") {
				t.Errorf("JSON.md does not tell of member %s of %s", name, command)
			}
		}
	}
}

// jsonNames collects the names of all members of a type, at any depth.
func jsonNames(typ reflect.Type, names map[string]bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
		return
	}
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" {
			names[name] = true
		}
		if f.IsExported() || f.Anonymous {
			jsonNames(f.Type, names)
		}
	}
}

package history

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/test/pgtest"
)

// contents is all that is in a cluster, a line for each thing.
type contents struct {
	lines     []string
	sequences map[string]int64 // WAL has them up to 32 ahead, and after a crash so has the server, but no older backup
	unlogged  map[string]int64 // rows; -1 where they cannot be read
}

const sharedContents = `
	SELECT 'database ' || datname || ' ' || spcname || ' ' || datallowconn || ' ' || datconnlimit FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace
	UNION ALL SELECT 'tablespace ' || spcname FROM pg_tablespace
	UNION ALL SELECT 'role ' || rolname || ' ' || rolcanlogin || ' ' || rolconnlimit FROM pg_roles WHERE rolname ~ '^r[0-9]'
	ORDER BY 1`

// contentsOf reads every table as a whole, and once more by its primary key. DO gives nothing back but by a setting.
const contentsOf = `
DO $do$
DECLARE
	r record; n bigint; h numeric; n2 bigint; h2 numeric; result text := '';
	hash text := $$SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 15))::bit(60)::bigint), 0) FROM $$;
BEGIN
	FOR r IN SELECT format('%I', c.relname) AS name, c.relkind AS kind, c.relpersistence AS persistence, coalesce(s.spcname, '-') AS space,
			CASE WHEN c.relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid)
				ELSE (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute a WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) END AS def,
			EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary) AS key
		FROM pg_class c JOIN pg_namespace p ON p.oid = c.relnamespace LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
		WHERE p.nspname = 'public' AND c.relname <> 'history_tick' AND c.relpersistence <> 't' ORDER BY c.relname
	LOOP
		IF r.kind = 'S' THEN
			CONTINUE WHEN r.persistence = 'u';
			EXECUTE 'SELECT last_value FROM public.' || r.name INTO n;
			result := result || format(E'sequence %s %s\n', r.name, n);
			CONTINUE;
		END IF;
		result := result || format(E'%s %s %s %s %s\n', r.kind, r.name, r.persistence, r.space, r.def);
		CONTINUE WHEN r.kind NOT IN ('r', 'm');
		IF r.persistence = 'u' THEN
			n := -1;
			IF NOT pg_is_in_recovery() THEN
				EXECUTE 'SELECT count(*) FROM public.' || r.name INTO n;
			END IF;
			result := result || format(E'unlogged %s %s\n', r.name, n);
			CONTINUE;
		END IF;
		EXECUTE hash || 'public.' || r.name || ' t' INTO n, h;
		result := result || format(E'rows %s %s %s\n', r.name, n, h);
		IF r.key THEN
			SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
			EXECUTE hash || '(SELECT * FROM public.' || r.name || ' ORDER BY id) t' INTO n2, h2;
			RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_sort;
			IF n <> n2 OR h <> h2 THEN
				result := result || format(E'INDEX of %s DIFFERS: %s %s\n', r.name, n2, h2);
			END IF;
		END IF;
	END LOOP;
	SELECT count(*), coalesce(sum(('x' || left(md5(loid::text || '.' || pageno || encode(data, 'hex')), 15))::bit(60)::bigint), 0) INTO n, h FROM pg_largeobject;
	PERFORM set_config('history.contents', result || format(E'large objects %s %s\n', n, h), false);
END $do$;
SELECT current_setting('history.contents')`

// look reads all that a server has.
func look(ctx context.Context, c *pgtest.Cluster) (*contents, error) {
	x := &contents{sequences: map[string]int64{}, unlogged: map[string]int64{}}
	shared, err := c.Query(ctx, "postgres", sharedContents)
	if err != nil {
		return nil, err
	}
	x.lines = strings.Split(shared, "\n")
	names, err := c.Query(ctx, "postgres", `SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	for db := range strings.SplitSeq(names, "\n") {
		text, err := c.Query(ctx, db, contentsOf)
		if err != nil {
			return nil, fmt.Errorf("read database %s: %w", db, err)
		}
		for line := range strings.Lines(text) {
			if err := x.take(db, strings.TrimSuffix(line, "\n")); err != nil {
				return nil, err
			}
		}
	}
	return x, nil
}

func (x *contents) take(db, line string) error {
	f := strings.Fields(line)
	into := map[string]map[string]int64{"sequence": x.sequences, "unlogged": x.unlogged}[f[0]]
	if into == nil {
		x.lines = append(x.lines, db+": "+line)
		return nil
	}
	n, err := strconv.ParseInt(f[2], 10, 64)
	into[db+"."+f[1]] = n
	return err
}

// differs tells what a restored server has otherwise than it was; nothing when all is well. Unlogged tables are empty
// after a recovery; without one (kept) they are as they were.
func (x *contents) differs(was *contents, kept bool) string {
	var out strings.Builder
	have, want := map[string]bool{}, map[string]bool{}
	for _, l := range x.lines {
		have[l] = true
	}
	for _, l := range was.lines {
		want[l] = true
		if !have[l] {
			fmt.Fprintln(&out, "missing:", l)
		}
	}
	for _, l := range x.lines {
		if !want[l] {
			fmt.Fprintln(&out, "not so: ", l)
		}
	}
	for name, n := range was.sequences {
		if got, there := x.sequences[name]; !there || got < n-33 || got > n+33 {
			fmt.Fprintf(&out, "sequence %s is at %d, was at %d\n", name, got, n)
		}
	}
	for name, n := range was.unlogged {
		got, there := x.unlogged[name]
		if !there || kept && got != n || !kept && got > 0 {
			fmt.Fprintf(&out, "unlogged %s has %d rows, had %d\n", name, got, n)
		}
	}
	return out.String()
}

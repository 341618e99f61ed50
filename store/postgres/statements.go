package postgres

import (
	"strconv"
	"strings"

	"github.com/edrgate/edrgate/store"
)

// statements are what a store says to the database, with the tables of its schema. Each is one transaction. They name the
// schema and do not set a search path, which a pooler would not keep.
type statements struct {
	health, get, list, listLabel, tail          string
	create, remove, update, report, sweep, trim string
	updateAll                                   string
	export, include, includeEntry               string // see move.go
}

// fromHere begins each read. It gives one row at least, that says whether the server is a standby: an answer of one must
// never be taken for the truth, also where a pooler has chosen the server.
const fromHere = `SELECT pg_catalog.pg_is_in_recovery(), `

const recordColumns = `r.kind, r.id, r.birth, r.version, r.labels, r.expires, r.data`

func statementsFor(schema string) statements {
	in := func(sql string) string { return strings.ReplaceAll(sql, "{schema}", schema) }
	return statements{
		health: fromHere + `pg_catalog.current_setting('transaction_read_only') = 'on'`,

		get: in(fromHere + recordColumns + `
			FROM (SELECT) AS always LEFT JOIN {schema}.record r ON r.kind = $1 AND r.id = $2`),

		// $3 is the time: what has expired by then is not there.
		list: in(fromHere + recordColumns + `
			FROM (SELECT) AS always LEFT JOIN LATERAL (
				SELECT * FROM {schema}.record
				WHERE kind = $1 AND id > $2 AND (expires IS NULL OR expires > $3)
				ORDER BY id LIMIT $4
			) r ON true ORDER BY r.id`),

		listLabel: in(fromHere + recordColumns + `
			FROM (SELECT) AS always LEFT JOIN LATERAL (
				SELECT held.* FROM {schema}.record_label l JOIN {schema}.record held ON held.kind = l.kind AND held.id = l.id
				WHERE l.kind = $1 AND l.digest = sha256($5::bytea || '\x00'::bytea || $6::bytea) AND l.id > $2
					AND (held.expires IS NULL OR held.expires > $3)
				ORDER BY l.id LIMIT $4
			) r ON true ORDER BY r.id`),

		// One snapshot of the position and the entries.
		tail: in(fromHere + `p.trimmed, e.seq, e.kind, e.id, e.version, e.event, e.at
			FROM {schema}.log_position p LEFT JOIN LATERAL (
				SELECT * FROM {schema}.log_entry WHERE seq > $1 ORDER BY seq LIMIT $2
			) e ON true ORDER BY e.seq`),

		create: in(creation("1")),

		// Takes an expired record away, so that another can be created in its place.
		remove: in(`
			WITH gone AS (
				DELETE FROM {schema}.record
				WHERE kind = $1 AND id = $2 AND birth = $3 AND version = $4 AND expires <= $5
				RETURNING kind, id, labels
			), unlabelled AS (` + withoutLabels("gone") + `)
			SELECT count(*) FROM gone`),

		// The compare-and-swap.
		update: in(`
			UPDATE {schema}.record SET birth = $5, version = version + 1, expires = $6, data = $7
			WHERE kind = $1 AND id = $2 AND birth = $3 AND version = $4`),

		// Many compare-and-swaps at once, each decided by itself. A row that somebody else is about to change is passed over, as
		// one that was changed: to wait for it would hold up the others, and two groups could wait for each other.
		updateAll: in(`
			WITH wanted AS MATERIALIZED (
				SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::numeric[], $7::bytea[])
					AS w (kind, id, birth, version, next, expires, data)
			), held AS MATERIALIZED (
				SELECT r.kind, r.id FROM wanted w JOIN {schema}.record r
					ON r.kind = w.kind AND r.id = w.id AND r.birth = w.birth AND r.version = w.version
				FOR UPDATE OF r SKIP LOCKED
			)
			UPDATE {schema}.record r SET birth = w.next, version = r.version + 1, expires = w.expires, data = w.data
			FROM held JOIN wanted w ON w.kind = held.kind AND w.id = held.id
			WHERE r.kind = held.kind AND r.id = held.id AND r.birth = w.birth AND r.version = w.version
			RETURNING r.birth`),

		// The compare-and-swap with an entry in the log. The position is locked only when the record was changed.
		report: in(`
			WITH changed AS (
				UPDATE {schema}.record SET birth = $5, version = version + 1, expires = $6, data = $7
				WHERE kind = $1 AND id = $2 AND birth = $3 AND version = $4
				RETURNING kind, id, version
			), counted AS (
				UPDATE {schema}.log_position p SET last = p.last + 1 FROM changed
				RETURNING p.last
			)
			INSERT INTO {schema}.log_entry (seq, kind, id, version, event, at)
			SELECT counted.last, changed.kind, changed.id, changed.version, $8, $9 FROM changed, counted`),

		// What others hold is left for the next time: gateways sweep side by side.
		sweep: in(`
			WITH due AS (
				SELECT kind, id FROM {schema}.record WHERE expires < $1
				ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED
			), gone AS (
				DELETE FROM {schema}.record r USING due WHERE r.kind = due.kind AND r.id = due.id
				RETURNING r.kind, r.id, r.labels
			), unlabelled AS (` + withoutLabels("gone") + `)
			SELECT count(*) FROM gone`),

		// From the oldest entry on, up to the first that is to be kept; never the newest.
		trim: in(`
			WITH oldest AS (
				SELECT seq, at FROM {schema}.log_entry ORDER BY seq LIMIT $2
			), gone AS (
				DELETE FROM {schema}.log_entry e USING oldest
				WHERE e.seq = oldest.seq
					AND e.seq < (SELECT last FROM {schema}.log_position)
					AND e.seq < coalesce((SELECT min(seq) FROM oldest WHERE at >= $1), e.seq + 1)
				RETURNING e.seq
			), moved AS (
				UPDATE {schema}.log_position p SET trimmed = greatest(p.trimmed, g.seq)
				FROM (SELECT max(seq) AS seq FROM gone HAVING count(*) > 0) g
			)
			SELECT count(*) FROM gone`),

		export: in(fromHere + recordColumns + `
			FROM (SELECT) AS always LEFT JOIN LATERAL (
				SELECT * FROM {schema}.record WHERE (kind, id) > ($1, $2) ORDER BY kind, id LIMIT $3
			) r ON true ORDER BY r.kind, r.id`),

		include: in(creation("$7")),

		// The first entry of a log that never had one may have any number.
		includeEntry: in(`
			WITH counted AS (
				UPDATE {schema}.log_position SET last = $1, trimmed = CASE WHEN last = 0 THEN $1 - 1 ELSE trimmed END
				WHERE last = $1 - 1 OR last = 0
				RETURNING last
			)
			INSERT INTO {schema}.log_entry (seq, kind, id, version, event, at)
			SELECT last, $2, $3, $4, $5, $6 FROM counted`),
	}
}

// creation inserts a record with a version, and its labels, and counts it; 0: there is one already.
func creation(version string) string {
	return `
		WITH written AS (
			INSERT INTO {schema}.record (kind, id, birth, version, labels, expires, data)
			VALUES ($1, $2, $3, ` + version + `, $4, $5, $6)
			ON CONFLICT (kind, id) DO NOTHING
			RETURNING kind, id, labels
		), labelled AS (
			INSERT INTO {schema}.record_label (kind, digest, id) ` + digestsOf("written") + `
		)
		SELECT count(*) FROM written`
}

// digestsOf selects the rows of record_label for the records in a table expression. The limit tells the planner that they
// are few, so that it looks for each in the index.
func digestsOf(from string) string {
	return `SELECT x.kind, d.digest, x.id FROM ` + from + ` x CROSS JOIN LATERAL (
			SELECT sha256(x.labels[i] || '\x00'::bytea || x.labels[i + 1]) AS digest
			FROM generate_series(1, cardinality(x.labels), 2) AS i LIMIT ` + strconv.Itoa(store.MaxLabels) + `
		) d`
}

// withoutLabels deletes the rows of record_label for the records in a table expression.
func withoutLabels(from string) string {
	return `DELETE FROM {schema}.record_label l USING (` + digestsOf(from) + `) d
		WHERE l.kind = d.kind AND l.digest = d.digest AND l.id = d.id`
}

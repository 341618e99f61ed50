-- Kinds, ids and labels are bytes: ids are any bytes, and pages of them go by the order of bytes.
CREATE TABLE record (
	kind    bytea  NOT NULL,
	id      bytea  NOT NULL,
	birth   bigint NOT NULL,  -- drawn at random by each write: two rows that have it in common are the same
	version bigint NOT NULL,
	labels  bytea[] NOT NULL, -- name, value, name, value; never changed
	expires numeric(29, 9),   -- seconds since 1970; NULL: never
	data    bytea  NOT NULL,
	PRIMARY KEY (kind, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

-- What is renewed does not expire: renewals leave this index alone, so that they are HOT updates.
CREATE INDEX record_expires ON record (expires) WHERE expires IS NOT NULL;

-- A row for each label of a record, in a table of its own since labels never change. The digest is of name, NUL, value,
-- because both are longer together than an index takes.
CREATE TABLE record_label (
	kind   bytea NOT NULL,
	digest bytea NOT NULL,
	id     bytea NOT NULL,
	PRIMARY KEY (kind, digest, id)
);

-- The log of state changes. The one row of log_position is changed in the transaction of each entry and stays locked
-- until it is committed, so that the order of commits is the order of numbers, without gaps.
CREATE TABLE log_position (
	one     boolean PRIMARY KEY DEFAULT true CHECK (one),
	last    bigint NOT NULL, -- number of the newest entry
	trimmed bigint NOT NULL  -- number of the newest entry that was removed
) WITH (fillfactor = 10);

INSERT INTO log_position (last, trimmed) VALUES (0, 0);

CREATE TABLE log_entry (
	seq     bigint PRIMARY KEY,
	kind    bytea  NOT NULL,
	id      bytea  NOT NULL,
	version bigint NOT NULL,
	event   bytea  NOT NULL,
	at      numeric(29, 9) NOT NULL -- seconds since 1970, by the writer's clock
);

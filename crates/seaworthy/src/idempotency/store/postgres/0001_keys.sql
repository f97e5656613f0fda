-- Idempotency keys. Names are bytes: they may hold what the database's encoding can't. To read one: convert_from(key, 'UTF8').

CREATE TABLE {schema}.keys (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    place        bytea NOT NULL,
    client       bytea NOT NULL,
    key          bytea NOT NULL,
    fingerprint  bytea NOT NULL,
    token        bigint NOT NULL,
    -- Who may settle it; nobody once an operator released it.
    owner        bytea,
    phase        text NOT NULL CONSTRAINT phases CHECK (phase IN ('running', 'unknown', 'free', 'done')),
    head         bytea,
    body         bytea,
    chunks       bigint,
    retention_ms bigint NOT NULL,
    -- Of who began last: whoever finds it running waits for that long.
    lease_ms     bigint NOT NULL,
    changed      timestamptz NOT NULL,
    expires      timestamptz NOT NULL,
    UNIQUE (place, client, key)
);

-- For the sweeping.
CREATE INDEX keys_expires ON {schema}.keys (expires);

-- What of a body does not stand in its record.
CREATE TABLE {schema}.chunks (
    record bigint NOT NULL REFERENCES {schema}.keys (id) ON DELETE CASCADE,
    token  bigint NOT NULL,
    number bigint NOT NULL,
    bytes  bytea NOT NULL,
    PRIMARY KEY (record, token, number)
);

-- Bodies are compressed already, or not worth the time.
ALTER TABLE {schema}.keys ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE {schema}.chunks ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- Which keys operators released, and why.
CREATE TABLE {schema}.releases (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    place  bytea NOT NULL,
    client bytea NOT NULL,
    key    bytea NOT NULL,
    token  bigint NOT NULL,
    phase  text NOT NULL,
    reason text NOT NULL,
    at     timestamptz NOT NULL
);

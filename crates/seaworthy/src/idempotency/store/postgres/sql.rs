//! The statements, for a schema.
//!
//! Each is one transaction, under `READ COMMITTED`: what it waits for is looked at again as it stands then. `clock_timestamp()`
//! and not `now()`: a transaction that waited shall not write down when it began to.

/// The statements of a store. `$1` to `$3` are place, client and key wherever a key is meant.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) reserve: String,
    pub(super) begin_free: String,
    pub(super) take_over: String,
    pub(super) forget: String,
    pub(super) settle: String,
    pub(super) put_chunk: String,
    pub(super) chunk: String,
    pub(super) find: String,
    pub(super) list: String,
    pub(super) release: String,
    pub(super) releases: String,
    pub(super) sweep_chunks: String,
    pub(super) sweep: String,
    pub(super) sweep_releases: String,
    pub(super) join: String,
    pub(super) join_free: String,
    pub(super) keep: String,
    pub(super) versions: String,
    pub(super) version: String,
    pub(super) applied: String,
}

impl Sql {
    /// For a schema whose name needs no quotes within quotes.
    pub(super) fn new(schema: &str) -> Self {
        let of = |text: &str| {
            text.replace("{columns}", COLUMNS)
                .replace("{glance}", &COLUMNS.replace("k.body", NO_BODY))
                .replace("{is}", IS)
                .replace("{later}", LATER)
                .replace("{schema}", &format!("\"{schema}\""))
        };
        let begun = |phases: &str| of(&BEGIN.replace("{phases}", phases).replace("{begun}", "running"));
        Self {
            reserve: of(&INSERT.replace("{begun}", "running")),
            begin_free: begun("'free'"),
            take_over: begun("'running', 'unknown'"),
            forget: of("DELETE FROM {schema}.keys WHERE id = $1 AND expires <= clock_timestamp()"),
            settle: of(SETTLE),
            put_chunk: of(PUT_CHUNK),
            chunk: of(CHUNK),
            find: of("SELECT {columns} FROM {schema}.keys k WHERE {is}"),
            list: of(
                "SELECT {glance} FROM {schema}.keys k WHERE k.id > $1 AND k.expires > clock_timestamp() \
                      ORDER BY k.id LIMIT $2",
            ),
            release: of(RELEASE),
            releases: of(RELEASES),
            sweep_chunks: of(SWEEP_CHUNKS),
            sweep: of(SWEEP),
            sweep_releases: of(SWEEP_RELEASES),
            join: of(&INSERT.replace("{begun}", "done")),
            join_free: of(&BEGIN.replace("{phases}", "'free'").replace("{begun}", "done")),
            keep: of(
                "UPDATE {schema}.keys k SET head = $6, body = $7 WHERE {is} AND k.token = $4 AND k.owner = $5 \
                      RETURNING k.id",
            ),
            versions: of("CREATE TABLE IF NOT EXISTS {schema}.migrations \
                          (version integer PRIMARY KEY, applied timestamptz NOT NULL)"),
            version: of("SELECT coalesce(max(version), 0) FROM {schema}.migrations"),
            applied: of("INSERT INTO {schema}.migrations (version, applied) VALUES ($1, clock_timestamp())"),
        }
    }
}

/// Of a record. The owner is compared, never shown.
const COLUMNS: &str = "k.id, k.place, k.client, k.key, k.fingerprint, k.token, k.owner, k.phase, k.head, k.body, k.chunks, k.lease_ms, \
     (extract(epoch FROM k.changed) * 1000)::bigint AS changed_ms, \
     (extract(epoch FROM k.expires - clock_timestamp()) * 1000)::bigint AS left_ms, \
     k.expires <= clock_timestamp() AS expired";

/// In the place of a body, where there is one: nobody lists bodies.
const NO_BODY: &str = "CASE WHEN k.body IS NOT NULL THEN ''::bytea END AS body";

const IS: &str = "k.place = $1 AND k.client = $2 AND k.key = $3";

/// When a retention that begins now is over.
const LATER: &str = "clock_timestamp() + $6::bigint * interval '1 millisecond'";

/// `$4` fingerprint, `$5` owner, `$6` retention, `$7` lease. A row that is there is not even locked, so a duplicate writes nothing.
const INSERT: &str = "
INSERT INTO {schema}.keys AS k
    (place, client, key, fingerprint, token, owner, phase, head, body, chunks, retention_ms, lease_ms, changed,
     expires)
SELECT $1, $2, $3, $4, 1, $5, '{begun}', nothing, nothing, length(nothing), $6, $7, clock_timestamp(), {later}
FROM (SELECT CASE WHEN '{begun}' = 'done' THEN ''::bytea END AS nothing) n
ON CONFLICT (place, client, key) DO NOTHING
RETURNING k.token";

/// As above, and `$8` the token that it was seen under. Nobody takes over from itself: it would fence its own attempt whose answer
/// was lost.
const BEGIN: &str = "
WITH new AS (
    UPDATE {schema}.keys k
    SET fingerprint = $4, token = k.token + 1, owner = $5, phase = '{begun}', head = nothing, body = nothing,
        chunks = length(nothing), retention_ms = $6, lease_ms = $7, changed = clock_timestamp(), expires = {later}
    FROM (SELECT CASE WHEN '{begun}' = 'done' THEN ''::bytea END AS nothing) n
    WHERE {is} AND k.token = $8 AND k.phase IN ({phases}) AND k.expires > clock_timestamp()
        AND NOT (k.phase = 'running' AND k.owner IS NOT DISTINCT FROM $5)
    RETURNING k.id, k.token
), gone AS (
    DELETE FROM {schema}.chunks c USING new WHERE c.record = new.id
)
SELECT token FROM new";

/// `$4` token, `$5` owner, `$6` retention, `$7` phase, `$8` head, `$9` body, `$10` chunks.
const SETTLE: &str = "
UPDATE {schema}.keys k
SET phase = $7, head = $8, body = $9, chunks = $10, retention_ms = $6, changed = clock_timestamp(), expires = {later}
WHERE {is} AND k.token = $4 AND k.owner = $5 AND k.expires > clock_timestamp()
    AND (k.phase = 'running' OR (k.phase = 'unknown' AND $7 <> 'unknown'))
    AND (coalesce($10::bigint, 0) = 0 OR $10 = (
        SELECT count(*) FROM {schema}.chunks c WHERE c.record = k.id AND c.token = k.token AND c.number < $10
    ))
RETURNING k.id";

/// `$4` token, `$5` owner, `$6` retention, `$7` number, `$8` bytes.
const PUT_CHUNK: &str = "
WITH held AS (
    UPDATE {schema}.keys k
    SET retention_ms = $6, changed = clock_timestamp(), expires = {later}
    WHERE {is} AND k.token = $4 AND k.owner = $5 AND k.phase IN ('running', 'unknown') AND k.expires > clock_timestamp()
    RETURNING k.id, k.token
)
INSERT INTO {schema}.chunks AS c (record, token, number, bytes)
SELECT held.id, held.token, $7, $8 FROM held
ON CONFLICT (record, token, number) DO UPDATE SET bytes = excluded.bytes
RETURNING c.record";

/// `$4` token, `$5` number.
const CHUNK: &str = "
SELECT c.bytes
FROM {schema}.keys k JOIN {schema}.chunks c ON c.record = k.id AND c.token = k.token
WHERE {is} AND k.token = $4 AND c.number = $5 AND k.phase <> 'free' AND k.expires > clock_timestamp()";

/// `$4` token, `$5` reason. Nobody owns it from then on.
const RELEASE: &str = "
WITH old AS (
    SELECT k.id, k.phase, k.retention_ms FROM {schema}.keys k
    WHERE {is} AND k.token = $4 AND k.expires > clock_timestamp()
    FOR UPDATE
), freed AS (
    UPDATE {schema}.keys k
    SET phase = 'free', owner = NULL, head = NULL, body = NULL, chunks = NULL, changed = clock_timestamp(),
        expires = clock_timestamp() + old.retention_ms * interval '1 millisecond'
    FROM old WHERE k.id = old.id
    RETURNING k.id, old.phase
), gone AS (
    DELETE FROM {schema}.chunks c USING freed WHERE c.record = freed.id
)
INSERT INTO {schema}.releases (place, client, key, token, phase, reason, at)
SELECT $1, $2, $3, $4, freed.phase, $5, clock_timestamp() FROM freed
RETURNING id";

const RELEASES: &str = "
SELECT place, client, key, token, phase, reason, (extract(epoch FROM at) * 1000)::bigint AS at_ms
FROM {schema}.releases ORDER BY id DESC LIMIT $1";

/// `$1` how many records are looked at, `$2` how many chunks go. A record that is past its retention is never used again, so its
/// chunks can go before it.
const SWEEP_CHUNKS: &str = "
DELETE FROM {schema}.chunks c
USING (
    SELECT its.record, its.token, its.number
    FROM (SELECT id FROM {schema}.keys WHERE expires <= statement_timestamp() ORDER BY expires LIMIT $1) old
        JOIN {schema}.chunks its ON its.record = old.id
    LIMIT $2
) gone
WHERE c.record = gone.record AND c.token = gone.token AND c.number = gone.number
RETURNING c.number";

/// `statement_timestamp()`, as an index can be searched for it. What somebody else sweeps or uses just now is passed by, and what
/// has chunks left waits for the next time.
const SWEEP: &str = "
DELETE FROM {schema}.keys k
USING (
    SELECT its.id FROM {schema}.keys its
    WHERE its.expires <= statement_timestamp()
        AND NOT EXISTS (SELECT FROM {schema}.chunks c WHERE c.record = its.id)
    ORDER BY its.expires LIMIT $1 FOR UPDATE SKIP LOCKED
) old
WHERE k.id = old.id
RETURNING k.id";

/// Every release is kept for a year.
const SWEEP_RELEASES: &str = "
DELETE FROM {schema}.releases
WHERE id IN (
    SELECT id FROM {schema}.releases WHERE at < statement_timestamp() - interval '365 days' ORDER BY id LIMIT $1
)
RETURNING id";

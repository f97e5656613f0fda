//! Keys in a PostgreSQL that several processes share, and in the caller's own transaction.
//!
//! Each step is one statement in one transaction; PostgreSQL 13 or later. Its tables stand in a schema of their own (by default
//! `seaworthy`), and are made by the first step if they are not there, under an advisory lock, as several processes may start
//! at once. Who does not want the program to make tables makes them before, with a role that may, by
//! [`Postgres::migrate`]; then `USAGE` on the schema and `SELECT`, `INSERT`, `UPDATE` and `DELETE` on its tables is enough.
//!
//! **Time.** Retention is counted by the server's clock. What is past it is absent at once, and swept away later.
//!
//! **Durability.** Each commit waits for the server's disk (`synchronous_commit` is set on for it where it was weaker). With
//! `fsync = off` that means nothing: [`Postgres::durability`] asks.
//!
//! **Which runtime.** Connections are made and served on the runtime that is given at the beginning, and steps may be awaited on
//! any other runtime of tokio that has its timers enabled. The former must outlive the store and be driven all along; once it
//! has ended, every step is [`StoreError::Down`].
//!
//! **Effect and record in one.** [`Postgres::join`] writes a key's record in a transaction of the caller, so either both the
//! effect and the record are there, or neither is.

mod join;
mod pool;
mod rows;
mod sql;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deadpool_postgres::{Manager, ManagerConfig, Pool};
use seaworthy_core::idempotency::{Phase, Token};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, Row};

pub use self::join::{First, JoinError, Joined};
use self::pool::{Connections, Connector};
use self::rows::{Found, bytes, column, found, release, token};
use super::durability::Durability;
use super::{Claim, Hold, Id, Page, Record, Release, Reserved, Settled, Step, Store, StoreError};

/// A PostgreSQL that keeps keys. See the [module](self). Its clones share one pool.
#[derive(Clone, Debug)]
pub struct Postgres {
    connections: Arc<Connections>,
}

/// How a PostgreSQL is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The schema that its tables stand in: 1 to 63 small letters, digits and `_`, no digit first. By default `seaworthy`.
    pub schema: String,
    /// The most connections. Steps that find all of them in use wait, for as long as a step may take. One whose step was given
    /// up is in use until the server has answered that step. By default 8: a server does about as many things at once as it has
    /// cores and disks, and more clients than that only wait there.
    pub pool: usize,
    /// How long a step takes at most, waiting for a connection included; then it is [`StoreError::Down`]. By default 1 s: a
    /// hundred times what a slow disk's flush takes, and still bearable for a caller.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { schema: "seaworthy".into(), pool: 8, timeout: Duration::from_secs(1) }
    }
}

impl Postgres {
    /// The PostgreSQL at `url` (`postgresql://[user[:password]@][host][:port][/database]`, or `host=.. user=..`), without TLS:
    /// for TLS make a pool and use [`Postgres::from_pool`]. Nothing is connected yet; its connections will live on `runtime`.
    ///
    /// It changes settings of its sessions, so what is at `url` is the server itself, or a pooler by session. Before a pooler by
    /// transaction (of PgBouncer, `pool_mode = transaction`) use [`Postgres::from_pool`], which sets what it needs in every
    /// transaction, at about twice the server's work.
    ///
    /// # Errors
    /// What is wrong with the URL or the options. Its text does not repeat the URL.
    pub fn new(url: &str, options: Options, runtime: Handle) -> Result<Self, BadPostgres> {
        let mut config: Config = url.parse().map_err(|_| BadPostgres(BAD_URL.into()))?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(BadPostgres("it asks for TLS, which only a pool of the program's own can do".into()));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(BadPostgres(BAD_URL.into()));
        }
        if config.get_application_name().is_none() {
            config.application_name("seaworthy");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(options.timeout);
        }
        if options.pool == 0 {
            return Err(BadPostgres("a pool has at least one connection".into()));
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(GONE_AFTER);
        }
        if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
            config.keepalives_idle(GONE_AFTER / 2);
        }
        check(&options.schema)?;
        let connector = Connector::new(runtime.clone(), options.timeout, options.pool);
        let manager = Manager::from_connect(config, connector, ManagerConfig::default());
        let pool = Pool::builder(manager).max_size(options.pool).build();
        let pool = pool.map_err(|error| BadPostgres(error.to_string()))?;
        let connections = Connections::own(pool, runtime, options.timeout, &options.schema);
        Ok(Self { connections: Arc::new(connections) })
    }

    /// Over a pool of the program's own, which it may use otherwise too. `options.pool` is not looked at. Connections that the
    /// store asks for first live on `runtime`.
    ///
    /// # Errors
    /// What is wrong with the options.
    pub fn from_pool(pool: Pool, options: Options, runtime: Handle) -> Result<Self, BadPostgres> {
        let Options { schema, timeout, pool: _ } = options;
        check(&schema)?;
        Ok(Self { connections: Arc::new(Connections::shared(pool, runtime, timeout, &schema)) })
    }

    /// Makes the tables, if they are not there. The first step does so too.
    ///
    /// # Errors
    /// [`StoreError::Down`] if the server can't be reached or does not let it.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.connections.ready().await
    }

    /// What the server promises of what it acknowledged, by its settings now.
    ///
    /// # Errors
    /// [`StoreError::Down`] if it does not answer.
    pub async fn durability(&self) -> Result<Durability, StoreError> {
        let settings =
            "SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS pages";
        let rows = self.within(self.connections.rows(settings, &[])).await?;
        let mut weak = Vec::new();
        for row in &rows {
            if column::<String>(row, "fsync")? != "on" {
                weak.push("`fsync` is off: set it on");
            }
            if column::<String>(row, "pages")? != "on" {
                weak.push("`full_page_writes` is off: set it on, unless the file system never tears a page");
            }
        }
        Ok(if weak.is_empty() { Durability::Durable } else { Durability::Weaker(weak.join("; ")) })
    }

    /// Bounds a step.
    async fn within<T>(&self, step: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let patience = self.connections.timeout;
        match timeout(patience, step).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::Down(format!("PostgreSQL did not answer within {patience:?}"))),
        }
    }

    /// A step: when the tables are there, and within its time.
    fn step<'a, T: 'a>(
        &'a self,
        step: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> Step<'a, T> {
        Box::pin(self.within(async move {
            self.connections.ready().await?;
            step.await
        }))
    }

    async fn begin(&self, id: &Id, claim: &Claim, from: Option<Token>) -> Result<Reserved, StoreError> {
        id.check()?;
        let (connections, sql) = (&*self.connections, &self.connections.sql);
        let [place, client, key] = names(id);
        let (fingerprint, owner) = (&claim.fingerprint.0[..], &claim.owner.to_be_bytes()[..]);
        let (retention, lease) = (millis(claim.retention), lease_ms(claim));
        let hold = |token| Reserved::New(Hold { token, owner: claim.owner });
        for _ in 0..TURNS {
            let begin = async |statement: &str, seen: Token| {
                let seen = number(seen);
                let rows = connections
                    .rows(
                        statement,
                        &[&place, &client, &key, &fingerprint, &owner, &retention, &lease, &seen],
                    )
                    .await?;
                rows.first().map(token).transpose()
            };
            if let Some(from) = from
                && let Some(token) = begin(&sql.take_over, from).await?
            {
                return Ok(hold(token));
            }
            let rows = connections
                .rows(&sql.reserve, &[&place, &client, &key, &fingerprint, &owner, &retention, &lease])
                .await?;
            if let Some(row) = rows.first() {
                return Ok(hold(token(row)?));
            }
            let rows = connections.rows(&sql.find, &[&place, &client, &key]).await?;
            let Some(row) = rows.first() else { continue };
            let Found { row: number, owner: its, expired, record, .. } = found(row)?;
            let standing = record.standing;
            if expired {
                connections.rows(&sql.forget, &[&number]).await?;
            } else if standing.phase == Phase::Running && its.as_deref() == Some(owner) {
                return Ok(hold(standing.token));
            } else if standing.phase == Phase::Free && from.is_none() {
                if let Some(token) = begin(&sql.begin_free, standing.token).await? {
                    return Ok(hold(token));
                }
            } else if Some(standing.token) != from || !is_open(standing.phase) {
                return Ok(Reserved::Found(record));
            }
            // It changed between two statements: what is it now?
        }
        Err(StoreError::Down(format!("the key changed {TURNS} times while it was looked at")))
    }

    async fn settled(
        &self,
        id: &Id,
        hold: Hold,
        settled: &Settled,
        retention: Duration,
    ) -> Result<bool, StoreError> {
        let [place, client, key] = names(id);
        let (token, owner) = (number(hold.token), &hold.owner.to_be_bytes()[..]);
        let (retention, phase) = (millis(retention), settled.phase().name());
        let answer = match settled {
            Settled::Done(answer) => Some(answer),
            Settled::Unknown | Settled::Free => None,
        };
        let (head, body) = (answer.map(|answer| &answer.head[..]), answer.map(|answer| &answer.body[..]));
        let chunks = answer.map(|answer| i64::from(answer.chunks));
        let connections = &self.connections;
        let changed = connections
            .rows(
                &connections.sql.settle,
                &[&place, &client, &key, &token, &owner, &retention, &phase, &head, &body, &chunks],
            )
            .await?;
        if !changed.is_empty() {
            return Ok(true);
        }
        let Some(now) = self.look(id).await? else { return Ok(false) };
        if now.record.standing.token != hold.token || now.owner.as_deref() != Some(owner) {
            return Ok(false);
        }
        let stands = now.record.standing.phase;
        if stands == settled.phase() {
            return Ok(now.record.answer.as_ref() == answer);
        }
        if is_open(stands) {
            // Nothing else keeps a hold from settling.
            return Err(StoreError::Corrupt(format!("a chunk of the result of {id} is gone")));
        }
        Ok(false)
    }

    /// What is known of a key, unless it is past its retention.
    async fn look(&self, id: &Id) -> Result<Option<Found>, StoreError> {
        let [place, client, key] = names(id);
        let connections = &self.connections;
        let rows = connections.rows(&connections.sql.find, &[&place, &client, &key]).await?;
        let Some(found) = rows.first().map(found).transpose()? else { return Ok(None) };
        Ok((!found.expired).then_some(found))
    }

    async fn listed(&self, from: Option<&str>, most: usize) -> Result<Page, StoreError> {
        let Ok(from) = from.map_or(Ok(i64::MIN), str::parse) else {
            return Err(StoreError::Down(format!("{from:?} is no place in a listing of PostgreSQL")));
        };
        let most = most.clamp(1, MOST_AT_ONCE);
        let connections = &self.connections;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = connections.rows(&connections.sql.list, &[&from, &limit]).await?;
        let mut page = Page::default();
        for row in &rows {
            match found(row) {
                Ok(found) => page.records.push((found.id, found.record)),
                Err(StoreError::Corrupt(_)) => page.unread += 1,
                Err(error) => return Err(error),
            }
        }
        if let Some(last) = rows.last().filter(|_| rows.len() == most) {
            page.next = Some(column::<i64>(last, "id")?.to_string());
        }
        Ok(page)
    }

    async fn swept(&self, most: usize) -> Result<usize, StoreError> {
        let connections = &self.connections;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let chunks = connections.rows(&connections.sql.sweep_chunks, &[&limit, &limit]).await?.len();
        let left = limit.saturating_sub(i64::try_from(chunks).unwrap_or(i64::MAX));
        let records = connections.rows(&connections.sql.sweep, &[&left]).await?.len();
        connections.rows(&connections.sql.sweep_releases, &[&limit]).await?;
        Ok(chunks + records)
    }
}

impl Store for Postgres {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn reserve<'a>(&'a self, id: &'a Id, claim: &'a Claim) -> Step<'a, Reserved> {
        self.step(self.begin(id, claim, None))
    }

    fn take_over<'a>(&'a self, id: &'a Id, claim: &'a Claim, from: Token) -> Step<'a, Reserved> {
        self.step(self.begin(id, claim, Some(from)))
    }

    fn settle<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        settled: &'a Settled,
        retention: Duration,
    ) -> Step<'a, bool> {
        self.step(self.settled(id, hold, settled, retention))
    }

    fn put_chunk<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        chunk: u32,
        bytes: Bytes,
        retention: Duration,
    ) -> Step<'a, bool> {
        self.step(async move {
            let [place, client, key] = names(id);
            let (token, owner, retention) =
                (number(hold.token), &hold.owner.to_be_bytes()[..], millis(retention));
            let (chunk, bytes) = (i64::from(chunk), &bytes[..]);
            let connections = &self.connections;
            let put = connections
                .rows(
                    &connections.sql.put_chunk,
                    &[&place, &client, &key, &token, &owner, &retention, &chunk, &bytes],
                )
                .await?;
            Ok(!put.is_empty())
        })
    }

    fn chunk<'a>(&'a self, id: &'a Id, token: Token, chunk: u32) -> Step<'a, Option<Bytes>> {
        self.step(async move {
            let [place, client, key] = names(id);
            let chunk = i64::from(chunk);
            let connections = &self.connections;
            let rows = connections
                .rows(&connections.sql.chunk, &[&place, &client, &key, &number(token), &chunk])
                .await?;
            rows.first().map(|row| bytes(row, "bytes")).transpose()
        })
    }

    fn find<'a>(&'a self, id: &'a Id) -> Step<'a, Option<Record>> {
        self.step(async move { Ok(self.look(id).await?.map(|found| found.record)) })
    }

    fn list<'a>(&'a self, from: Option<&'a str>, most: usize) -> Step<'a, Page> {
        self.step(self.listed(from, most))
    }

    fn release<'a>(&'a self, release: &'a Release) -> Step<'a, bool> {
        self.step(async move {
            let [place, client, key] = names(&release.id);
            let (token, reason) = (number(release.token), release.reason.replace('\0', "\u{fffd}"));
            let connections = &self.connections;
            let sql = &connections.sql.release;
            let released = connections.rows(sql, &[&place, &client, &key, &token, &reason]).await?;
            Ok(!released.is_empty())
        })
    }

    fn releases(&self, most: usize) -> Step<'_, Vec<Release>> {
        self.step(async move {
            let connections = &self.connections;
            let limit = i64::try_from(most).unwrap_or(i64::MAX);
            let rows: Vec<Row> = connections.rows(&connections.sql.releases, &[&limit]).await?;
            rows.iter().map(release).collect()
        })
    }

    fn sweep(&self, most: usize) -> Step<'_, usize> {
        self.step(self.swept(most))
    }
}

/// What is wrong with what a [`Postgres`] was to be made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadPostgres(String);

impl fmt::Display for BadPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadPostgres {}

fn check(schema: &str) -> Result<(), BadPostgres> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = schema.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if begins && schema.len() <= 63 && schema.bytes().all(fits) {
        return Ok(());
    }
    Err(BadPostgres("a schema has 1 to 63 small letters, digits and `_`, no digit first".into()))
}

fn names(id: &Id) -> [&[u8]; 3] {
    [id.place.as_bytes(), id.client.as_bytes(), id.key.as_bytes()]
}

fn number(token: Token) -> i64 {
    i64::try_from(token.0).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.min(AGES).as_millis()).unwrap_or(i64::MAX)
}

fn lease_ms(claim: &Claim) -> i64 {
    i64::try_from(claim.lease_ms()).unwrap_or(i64::MAX)
}

fn is_open(phase: Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Unknown)
}

const BAD_URL: &str = "a PostgreSQL is `postgresql://[user[:password]@]host[:port][/database]`";
/// A century: longer than anybody means, and far from what PostgreSQL can't count.
const AGES: Duration = Duration::from_secs(100 * 365 * 86_400);
/// A record that changes so often within one step is changed by something gone wrong.
const TURNS: u32 = 16;
/// A server whose machine does not answer for so long is gone, and its connections are given up: the system's own limits are
/// a quarter of an hour, and two hours. One that is only slow answers such questions at once, whatever its sessions wait for.
const GONE_AFTER: Duration = Duration::from_secs(20);
/// Of records in a page, whose results come along but for their bodies: a megabyte at the most as a rule.
const MOST_AT_ONCE: usize = 1000;

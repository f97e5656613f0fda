//! Connections, and one statement over one of them.
//!
//! A step that takes too long is given up by its caller, but not by the server: no setting ends a `COMMIT` that waits for a
//! standby or a disk. So a connection keeps its place in the pool until what was begun over it has ended, and whoever finds none
//! free is told that the store is down. If the place were free at once, each time-out would leave a session behind on the server,
//! until it takes no more.

use std::error::Error as _;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Connect, Object, Pool};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls, Row};

use super::sql::Sql;
use crate::idempotency::store::StoreError;

/// The connections of a store, and whether its tables are there.
pub(super) struct Connections {
    pool: Pool,
    /// Where new connections live, whoever asks for them.
    runtime: Handle,
    pub(super) timeout: Duration,
    schema: String,
    pub(super) sql: Sql,
    /// What stands before every statement, unless a [`Connector`] has prepared each connection once and for all.
    begin: Option<String>,
    migrated: OnceLock<()>,
    migrating: Mutex<Option<watch::Receiver<Ended>>>,
}

/// Of making the tables: `None` while it goes on.
type Ended = Option<Result<(), StoreError>>;

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Connections {
    /// Over a pool whose connections are made by a [`Connector`] on `runtime`.
    pub(super) fn own(pool: Pool, runtime: Handle, timeout: Duration, schema: &str) -> Self {
        Self {
            pool,
            runtime,
            timeout,
            schema: schema.to_owned(),
            sql: Sql::new(schema),
            begin: None,
            migrated: OnceLock::new(),
            migrating: Mutex::default(),
        }
    }

    /// Over a pool that others may use as they like.
    pub(super) fn shared(pool: Pool, runtime: Handle, timeout: Duration, schema: &str) -> Self {
        Self { begin: Some(begin(timeout)), ..Self::own(pool, runtime, timeout, schema) }
    }

    /// The rows that a statement gives, once its transaction is durable. To be repeated if its connection breaks, so only for
    /// what can be.
    pub(super) async fn rows(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut lease = self.lease().await?;
            match lease.rows(self.begin.as_deref(), sql, params).await {
                Ok(rows) => {
                    lease.give_back();
                    return Ok(rows);
                }
                // A server that was started anew left broken connections behind, which nobody noticed before.
                Err(error) if tries < TRIES && broken(&error) => {}
                Err(error) => {
                    if error.as_db_error().is_some() {
                        lease.give_back();
                    }
                    return Err(fault(&error));
                }
            }
        }
    }

    async fn lease(&self) -> Result<Lease<'_>, StoreError> {
        let (pool, patience) = (self.pool.clone(), self.timeout);
        let get = async move { timeout(patience, pool.get()).await };
        let got = match self.begin {
            None => get.await,
            // A connection lives where it was made, and who knows where this one's pool makes them.
            Some(_) => self.runtime.spawn(get).await.map_err(|_| homeless())?,
        };
        match got {
            Ok(Ok(object)) => Ok(Lease { held: Held(Some(object)), runtime: &self.runtime }),
            Ok(Err(error)) => Err(match error.source().and_then(|source| source.downcast_ref()) {
                Some(error) => fault(error),
                None => StoreError::Down(error.to_string()),
            }),
            Err(_) => {
                Err(StoreError::Down(format!("no connection to PostgreSQL was free within {patience:?}")))
            }
        }
    }

    /// Sees to it that the tables are there.
    pub(super) async fn ready(self: &Arc<Self>) -> Result<(), StoreError> {
        if self.migrated.get().is_some() {
            return Ok(());
        }
        let mut ended = self.migration();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(ended)) => ended.clone(),
            Ok(None) | Err(_) => Err(homeless()),
        }
    }

    /// The migration that is under way, or a new one. It goes on when who asked for it has lost patience.
    fn migration(self: &Arc<Self>) -> watch::Receiver<Ended> {
        let mut migrating = self.migrating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended) = &*migrating
            && ended.borrow().is_none()
            && ended.has_changed().is_ok()
        {
            return ended.clone();
        }
        let (tell, ended) = watch::channel(None);
        *migrating = Some(ended.clone());
        let connections = self.clone();
        self.runtime.spawn(async move {
            let came = match timeout(MIGRATE_AT_MOST, connections.migrate()).await {
                Ok(came) => came,
                Err(_) => {
                    Err(StoreError::Down(format!("its tables were not made within {MIGRATE_AT_MOST:?}")))
                }
            };
            if came.is_ok() {
                connections.migrated.get_or_init(|| ());
            }
            tell.send_replace(Some(came));
        });
        ended
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let mut lease = self.lease().await?;
        let done = lease.migrate(&self.schema, &self.sql).await;
        if done.is_ok() {
            lease.give_back();
        }
        done
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the pool: its configuration is not ours to print.
        f.debug_struct("Connections")
            .field("schema", &self.schema)
            .field("timeout", &self.timeout)
            .field("migrated", &self.migrated.get().is_some())
            .finish_non_exhaustive()
    }
}

/// A connection of the pool, for one exchange. If that is given up in the middle (by a timeout, or as nobody waits any more), it
/// goes on without its caller, and the connection is given back when it has ended.
struct Lease<'c> {
    held: Held,
    runtime: &'c Handle,
}

impl Lease<'_> {
    fn give_back(mut self) {
        self.held.give_back();
    }

    /// One statement in a transaction of its own, in one round trip: what follows is sent before what precedes is answered. If
    /// the statement fails, its `COMMIT` rolls back. A statement alone is its own transaction, and its rows come to an end once
    /// that is committed.
    async fn rows(&mut self, begin: Option<&str>, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let client = self.held.object();
        let statement = client.prepare_cached(sql).await?;
        let Some(begin) = begin else { return client.query(&statement, params).await };
        let (begun, rows, committed) = tokio::join!(
            biased;
            client.batch_execute(begin),
            client.query(&statement, params),
            client.batch_execute("COMMIT"),
        );
        begun?;
        let rows = rows?;
        committed?;
        Ok(rows)
    }

    /// Makes what is missing. Several processes may start at once: the first makes it, the others wait and find it made.
    async fn migrate(&mut self, schema: &str, sql: &Sql) -> Result<(), StoreError> {
        let client = self.held.object();
        let quoted = format!("\"{schema}\"");
        let table = format!("{quoted}.migrations");
        let row = client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&table]).await;
        if row.and_then(|row| row.try_get(0)).map_err(|error| fault(&error))? {
            // A role that may only use the tables is enough from then on.
            let row = client.query_one(&sql.version, &[]).await;
            if is_current(row.and_then(|row| row.try_get(0)).map_err(|error| fault(&error))?)? {
                return Ok(());
            }
        }
        let made = async {
            let transaction = client.transaction().await?;
            transaction.batch_execute("SET LOCAL statement_timeout = '60s'").await?;
            transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
            let row = transaction.query_one("SELECT to_regnamespace($1::text) IS NULL", &[&quoted]).await?;
            if row.try_get(0)? {
                transaction.batch_execute(&format!("CREATE SCHEMA {quoted}")).await?;
            }
            transaction.batch_execute(&sql.versions).await?;
            let there: i32 = transaction.query_one(&sql.version, &[]).await?.try_get(0)?;
            for (version, text) in MIGRATIONS.iter().filter(|(version, _)| *version > there) {
                transaction.batch_execute(&text.replace("{schema}", &quoted)).await?;
                transaction.execute(&sql.applied, &[version]).await?;
            }
            transaction.commit().await?;
            Ok(there)
        };
        let there = made.await.map_err(|error: Error| fault(&error))?;
        is_current(there.max(NEWEST)).map(|_| ())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(object) = self.held.0.take() {
            let held = Held(Some(object));
            self.runtime.spawn(held.until_it_is_idle());
        }
    }
}

/// What takes a place in the pool. Unless it is given back, the connection is closed, and its place is free.
struct Held(Option<Object>);

impl Held {
    fn object(&mut self) -> &mut Object {
        match &mut self.0 {
            Some(object) => object,
            None => unreachable!("it is there until it is given back"),
        }
    }

    fn give_back(&mut self) {
        drop(self.0.take());
    }

    /// Gives it back once everything that was asked over it was answered. Nothing is cancelled: a commit that waits for a standby
    /// would be seen by others at once, though the standby does not have it.
    async fn until_it_is_idle(mut self) {
        // Answers come in the order of the questions, so the one to this comes last.
        if self.object().batch_execute("").await.is_ok() {
            self.give_back();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// Whether the tables are as this version has them.
fn is_current(version: i32) -> Result<bool, StoreError> {
    if version > NEWEST {
        return Err(StoreError::Down(format!(
            "its tables are of a newer version of this program (migration {version}; this one knows {NEWEST})"
        )));
    }
    Ok(version == NEWEST)
}

/// Makes the connections of a pool of the store's own: on its runtime, whoever asks, and such that a statement is what it says,
/// whatever the settings of server, database and role are.
pub(super) struct Connector {
    runtime: Handle,
    prepare: Arc<str>,
    /// One for each connection of the pool, held from the attempt to make it until it is closed. The pool itself counts neither an
    /// attempt that nobody waits for any more, nor a connection that is being closed.
    places: Arc<Semaphore>,
}

impl Connector {
    pub(super) fn new(runtime: Handle, timeout: Duration, most: usize) -> Self {
        let prepare = format!(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; \
             SET statement_timeout = {}; {DURABLE_SESSION}",
            limit(timeout)
        );
        Self { runtime, prepare: prepare.into(), places: Arc::new(Semaphore::new(most)) }
    }
}

impl Connect for Connector {
    fn connect(&self, config: &Config) -> Made<'_> {
        let (config, prepare) = (config.clone(), self.prepare.clone());
        Box::pin(async move {
            // It is closed by nobody.
            let Ok(place) = self.places.clone().acquire_owned().await else {
                return std::future::pending().await;
            };
            let connected = self.runtime.spawn(async move {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(async move {
                    // Why a connection ended, the steps that were under way over it say.
                    connection.await.unwrap_or_default();
                    drop(place);
                });
                client.batch_execute(&prepare).await?;
                // Of what is given here the pool would break off the middle of an exchange, and the server go on with it. It ends by
                // itself once its client is gone and everything was answered.
                Ok((client, tokio::spawn(std::future::ready(()))))
            });
            match connected.await {
                Ok(connected) => connected,
                // The runtime has ended. Who waits has a limit to its patience.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

type Made<'a> = Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + 'a>>;

/// Begins a transaction of which the same holds, whatever the session's settings are too: the pool may be another's.
fn begin(timeout: Duration) -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = {}; {DURABLE_COMMIT}",
        limit(timeout)
    )
}

/// In milliseconds; 0 would be none.
fn limit(timeout: Duration) -> u128 {
    timeout.as_millis().clamp(1, 2_147_483_647)
}

fn homeless() -> StoreError {
    StoreError::Down("the runtime that its connections live on has ended".into())
}

/// What an error means for a store.
pub(super) fn fault(error: &Error) -> StoreError {
    let text = described(error);
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreError::Full(text),
        Some(code) if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
            StoreError::Corrupt(text)
        }
        _ => StoreError::Down(text),
    }
}

/// In one line, and without what the statement was about.
fn described(error: &Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("PostgreSQL says: {} ({})", said.message(), said.code().code());
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Whether the connection is at fault, and another may do better.
fn broken(error: &Error) -> bool {
    match error.code() {
        Some(code) => [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code),
        None => true,
    }
}

/// Lets the commit wait for the disk, unless it waits for more already.
pub(super) const DURABLE_COMMIT: &str = "SELECT set_config('synchronous_commit', 'on', true) \
     WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";
/// Lets all commits of the session do so.
const DURABLE_SESSION: &str = "SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";
/// What made the tables what they are, in order.
const MIGRATIONS: &[(i32, &str)] = &[(1, include_str!("0001_keys.sql"))];
/// The last of them.
const NEWEST: i32 = 1;
/// Under which they are made: any number that nobody else takes ("seaworth" in ASCII).
const LOCK: i64 = 0x7365_6177_6f72_7468;
/// Tables are made in a fraction of a second; somebody else may be making them.
const MIGRATE_AT_MOST: Duration = Duration::from_secs(60);
/// A pool of 8 that broke while nobody looked is noticed as a whole after one or two.
const TRIES: u32 = 3;

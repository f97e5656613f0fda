//! A Redis that several proxies count in.
//!
//! One key of Redis for each key of a place, so that it works on a cluster's node as well; its value is the theoretical arrival
//! time, in microseconds of that server's clock, so that no two proxies' clocks are compared. A Lua script reads it, decides and
//! writes it in one step. It expires when there is nothing left to remember. Microseconds are what Redis tells, and what a Lua
//! number, a double, holds exactly until the year 2255; the interval between two calls is rounded up to whole ones.
//!
//! Each worker has one connection, over which all its questions go at once. When it breaks, or is silent for the whole of a
//! question's timeout, the next question finds a new one. A [breaker](seaworthy::shared::Breaker) that all workers share stands
//! before it, so a dead Redis costs the timeout to the few calls that find it dead and to one probe a second, not to every call.
//! A question that was given up may still be counted by Redis later: the key then has a call less, never one more.
//!
//! Redis 5 or later: earlier ones don't let a script write after it has read the clock.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Script};
use seaworthy::clock;
use seaworthy::shared::Breaker;
use seaworthy_core::gate::breaker::{self, Ticket};
use seaworthy_core::gate::rate::{Decision, Quota};
use seaworthy_core::{Failure, Instant, Outcome, Valid};
use tokio::sync::Notify;
use tokio::time::timeout;

/// A Redis, for all workers.
pub(crate) struct Store {
    client: Client,
    timeout: Duration,
    prefix: String,
    breaker: Breaker,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the client: its address may hold a password.
        let Self { timeout, prefix, breaker, client: _ } = self;
        f.debug_struct("Store")
            .field("timeout", timeout)
            .field("prefix", prefix)
            .field("breaker", breaker)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The Redis at `url` (`redis://[user:password@]host:port/[database]`), asked for `timeout` at most; `prefix` begins its keys.
    /// Nothing is connected yet. The jitter of its breaker follows from `seed`.
    ///
    /// # Errors
    /// What is wrong with the URL. Its text does not repeat it.
    pub(crate) fn new(url: &str, timeout: Duration, prefix: &str, seed: u64) -> Result<Self, RedisError> {
        let info = url.into_connection_info()?;
        // Questions are small and wait for nobody.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self {
            client: Client::open(info)?,
            timeout,
            prefix: prefix.to_owned(),
            breaker: Breaker::new(guard(), seed),
        })
    }

    /// How it has been doing.
    pub(crate) fn snapshot(&self, now: Instant) -> breaker::Snapshot {
        self.breaker.snapshot(now)
    }

    fn key(&self, place: &str, key: u64) -> String {
        format!("{}:rate:{place}:{key:016x}", self.prefix)
    }
}

/// One worker's connection to a [`Store`].
#[derive(Debug)]
pub(crate) struct Remote {
    store: Arc<Store>,
    line: Rc<Line>,
}

/// No answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Down {
    /// How long it won't even be asked, where that is known.
    pub retry_after: Option<Duration>,
}

impl Remote {
    /// Nothing is connected yet.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, line: Rc::default() }
    }

    /// May a call of `key` start, by what all proxies have counted? What is admitted has been counted; the number that comes with
    /// it says nothing here. Runs on a tokio `LocalRuntime`.
    ///
    /// # Errors
    /// There was no answer within the store's timeout, or it was not asked as it was found dead before.
    pub(crate) async fn ask(
        &self,
        now: Instant,
        place: &str,
        key: u64,
        quota: Quota,
    ) -> Result<Decision, Down> {
        let store = &self.store;
        let ticket =
            store.breaker.admit(now).map_err(|rejection| Down { retry_after: rejection.retry_after })?;
        let mut asking = Asking { store, ticket: Some(ticket) };
        let heard = self.line.heard.get();
        let answer = timeout(store.timeout, self.put(&store.key(place, key), quota)).await;
        let outcome = match &answer {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(_)) => Outcome::failed(Failure::Broken),
            Err(_) => Outcome::failed(Failure::Timeout),
        };
        asking.settle(outcome);
        if answer.is_err() && self.line.heard.get() == heard {
            // Not a word for so long: it may be that nobody is there any more.
            self.line.hang_up();
        }
        match answer {
            Ok(Ok(0)) => Ok(Decision::Admit(0)),
            Ok(Ok(wait_us)) => Ok(Decision::Refuse(Duration::from_micros(wait_us))),
            Ok(Err(_)) | Err(_) => Err(Down { retry_after: None }),
        }
    }

    /// Has the script decide; 0 if it admits, else the microseconds until it would.
    async fn put(&self, key: &str, quota: Quota) -> Result<u64, Unanswered> {
        let mut connection = self.line.connection(&self.store).await?;
        let (interval, tolerance) = in_micros(quota);
        let mut question = SCRIPT.key(key);
        let answer = question.arg(interval).arg(tolerance).invoke_async(&mut connection).await;
        match answer {
            Ok(wait_us) => {
                self.line.heard.set(self.line.heard.get().wrapping_add(1));
                Ok(wait_us)
            }
            Err(_) => {
                // Whatever it says: another connection may lead to one that can (the new primary, say).
                self.line.hang_up();
                Err(Unanswered)
            }
        }
    }
}

/// It could not be reached, or said that it can't.
#[derive(Clone, Copy, Debug)]
struct Unanswered;

/// A question under way; whoever gives it up tells the breaker.
struct Asking<'a> {
    store: &'a Store,
    ticket: Option<Ticket>,
}

impl Asking<'_> {
    fn settle(&mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            // The breaker's state is read where metrics are.
            let _change = self.store.breaker.settle(clock::now(), ticket, outcome);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.settle(Outcome::Abandoned);
    }
}

/// A worker's connection, as it comes and goes.
#[derive(Default)]
struct Line {
    state: RefCell<State>,
    /// Notified when connecting has ended.
    connected: Notify,
    /// Answers that came.
    heard: Cell<u64>,
}

#[derive(Default)]
enum State {
    #[default]
    Down,
    Connecting,
    Up(MultiplexedConnection),
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.state.borrow() {
            State::Down => "down",
            State::Connecting => "connecting",
            State::Up(_) => "up",
        };
        f.debug_struct("Line").field("state", &state).finish_non_exhaustive()
    }
}

impl Line {
    /// The connection there is, else the one that is being made. It is made in a task of its own: a question's patience is too
    /// short for it where Redis is far away, and the next question shall find it.
    async fn connection(self: &Rc<Self>, store: &Arc<Store>) -> Result<MultiplexedConnection, Unanswered> {
        if let State::Up(connection) = &*self.state.borrow() {
            return Ok(connection.clone());
        }
        if matches!(*self.state.borrow(), State::Down) {
            *self.state.borrow_mut() = State::Connecting;
            tokio::task::spawn_local(connect(self.clone(), store.clone()));
        }
        self.connected.notified().await;
        match &*self.state.borrow() {
            State::Up(connection) => Ok(connection.clone()),
            State::Down | State::Connecting => Err(Unanswered),
        }
    }

    /// Lets go of the connection, if there is one.
    fn hang_up(&self) {
        let mut state = self.state.borrow_mut();
        if matches!(*state, State::Up(_)) {
            *state = State::Down;
        }
    }
}

async fn connect(line: Rc<Line>, store: Arc<Store>) {
    // Each question has its own patience.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let connecting = store.client.get_multiplexed_async_connection_with_config(&config);
    let state = match timeout(CONNECT_AT_MOST, connecting).await {
        Ok(Ok(connection)) => State::Up(connection),
        Ok(Err(_)) | Err(_) => State::Down,
    };
    *line.state.borrow_mut() = state;
    line.connected.notify_waiters();
}

/// The quota's interval and tolerance in microseconds, rounded so that never more is admitted, and exact in a double.
fn in_micros(quota: Quota) -> (u64, u64) {
    let interval = quota.interval_ns.div_ceil(1000);
    let burst = quota.tolerance_ns / quota.interval_ns.max(1);
    (interval, interval.saturating_mul(burst).min(MOST_TOLERANCE))
}

/// When a Redis counts as dead.
fn guard() -> Valid<breaker::Config> {
    let config = breaker::Config {
        // A probe a second costs one call its timeout, and finds a Redis that is back within a second or two.
        open_for: Duration::from_secs(1),
        open_growth: 1.0,
        open_at_most: Duration::from_secs(1),
        // A question has its own timeout, far below this.
        hung_after: None,
        // One answer is proof enough, and questions are too small for a slow return.
        successes_to_close: 1,
        ramp: Duration::ZERO,
        ..breaker::Config::default()
    };
    match Valid::new(config) {
        Ok(valid) => valid,
        Err(faults) => unreachable!("fixed numbers that a test checks: {faults:?}"),
    }
}

/// How the script learns the time.
const CLOCK: &str = "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]\n";
/// The decision: `Quota::decide` in microseconds, the second in it being that one's tolerance for clocks that were set back.
const DECIDE: &str = include_str!("script.lua");
/// Both. It is sent once to each server, and called by its hash.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(&format!("{CLOCK}{DECIDE}")));
/// Longer than a handshake over half the world takes, with a lost packet.
const CONNECT_AT_MOST: Duration = Duration::from_secs(2);
/// A hundred years: with the present time added a double still holds it exactly.
const MOST_TOLERANCE: u64 = 100 * 365 * 86_400 * 1_000_000;

#[cfg(test)]
mod tests;

//! The connection to a Redis, as it comes and goes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ScriptInvocation, Value};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::idempotency::store::StoreError;

/// One connection, over which all questions go at once. When it breaks, or is silent for the whole of a question's time, the
/// next question finds a new one.
pub(super) struct Line {
    client: Client,
    /// Where the connection lives, whoever asks.
    runtime: Handle,
    state: Mutex<State>,
    /// Answers that came.
    heard: AtomicU64,
}

/// What is asked. All of it can be asked again.
pub(super) enum Question<'a> {
    /// A script, which is sent along if the server does not know it (any more).
    Script(&'a ScriptInvocation<'a>),
    /// A command.
    Plain(&'a Cmd),
}

#[derive(Default)]
enum State {
    #[default]
    Down,
    /// Says how it ended.
    Connecting(watch::Receiver<Option<Ended>>),
    /// The number tells this connection from those before it.
    Up(u64, MultiplexedConnection),
}

type Ended = Result<(u64, MultiplexedConnection), String>;

impl Line {
    /// Nothing is connected yet.
    pub(super) fn new(client: Client, runtime: Handle) -> Self {
        Self { client, runtime, state: Mutex::default(), heard: AtomicU64::new(0) }
    }

    /// The answer, within `patience`.
    pub(super) async fn ask(
        self: &Arc<Self>,
        question: Question<'_>,
        patience: Duration,
    ) -> Result<Value, StoreError> {
        let heard = self.heard.load(Ordering::Relaxed);
        let Ok(answer) = timeout(patience, self.put(&question)).await else {
            if self.heard.load(Ordering::Relaxed) == heard {
                // Not a word for so long: it may be that nobody is there any more.
                self.hang_up(None);
            }
            return Err(StoreError::Down(format!("Redis did not answer within {patience:?}")));
        };
        answer
    }

    /// Asks for what nobody waits for, and that may as well not be done.
    pub(super) fn tell(self: &Arc<Self>, question: Cmd, patience: Duration) {
        let line = self.clone();
        self.runtime.spawn(async move {
            let _may_fail = line.ask(Question::Plain(&question), patience).await;
        });
    }

    /// A connection that broke while nobody asked (the server was started anew, say) is noticed by who asks next; so it asks
    /// once more over another.
    async fn put(self: &Arc<Self>, question: &Question<'_>) -> Result<Value, StoreError> {
        let mut again = true;
        loop {
            let (number, connection) = self.connection().await.map_err(StoreError::Down)?;
            let error = match question.send(connection).await {
                Ok(answer) => {
                    self.heard.fetch_add(1, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let fault = fault(&error);
            if matches!(fault, StoreError::Down(_)) {
                // Whatever it says: another connection may lead to one that can (the new primary, say).
                self.hang_up(Some(number));
            }
            if !(error.is_io_error() && again) {
                return Err(fault);
            }
            again = false;
        }
    }

    /// The connection there is, else the one that is being made. It is made in a task of its own: a question's patience may be
    /// too short for it where Redis is far away, and the next question shall find it.
    async fn connection(self: &Arc<Self>) -> Ended {
        let mut ended = match &*self.state() {
            State::Up(number, connection) => return Ok((*number, connection.clone())),
            // Its sender is gone without a word if the runtime was shut down.
            State::Connecting(ended) if ended.has_changed().is_ok() => Some(ended.clone()),
            State::Connecting(_) | State::Down => None,
        };
        let ended = ended.get_or_insert_with(|| self.begin_to_connect());
        let came = ended.wait_for(Option::is_some).await;
        match came.as_deref() {
            Ok(Some(ended)) => ended.clone(),
            Ok(None) | Err(_) => Err("the runtime that its connection lives on has ended".into()),
        }
    }

    fn begin_to_connect(self: &Arc<Self>) -> watch::Receiver<Option<Ended>> {
        let (tell, ended) = watch::channel(None);
        let mut state = self.state();
        if let State::Connecting(ended) = &*state
            && ended.has_changed().is_ok()
        {
            // Somebody else was faster.
            return ended.clone();
        }
        *state = State::Connecting(ended.clone());
        drop(state);
        let line = self.clone();
        self.runtime.spawn(async move {
            let came = line.connect().await;
            *line.state() = match &came {
                Ok((number, connection)) => State::Up(*number, connection.clone()),
                Err(_) => State::Down,
            };
            tell.send_replace(Some(came));
        });
        ended
    }

    async fn connect(&self) -> Ended {
        // Each question has its own patience.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        match timeout(CONNECT_AT_MOST, connecting).await {
            Ok(Ok(connection)) => Ok((NUMBERS.fetch_add(1, Ordering::Relaxed), connection)),
            Ok(Err(error)) => Err(format!("Redis can't be reached: {error}")),
            Err(_) => Err(format!("Redis can't be reached: no connection within {CONNECT_AT_MOST:?}")),
        }
    }

    /// Lets go of the connection of that number, or of any, if there is one.
    fn hang_up(&self, which: Option<u64>) {
        let mut state = self.state();
        if let State::Up(number, _) = &*state
            && which.is_none_or(|which| which == *number)
        {
            *state = State::Down;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question<'_> {
    async fn send(&self, mut connection: MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            Self::Script(script) => script.invoke_async(&mut connection).await,
            Self::Plain(command) => command.query_async(&mut connection).await,
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the client: its address may hold a password.
        let state = match &*self.state() {
            State::Down => "down",
            State::Connecting(_) => "connecting",
            State::Up(..) => "up",
        };
        f.debug_struct("Line").field("state", &state).finish_non_exhaustive()
    }
}

/// What an error of Redis means for a store. Errors that a script ran into come with some text around them, which differs by
/// version; so they are looked for anywhere in it.
fn fault(error: &RedisError) -> StoreError {
    let text = error.to_string();
    if text.contains("command not allowed when used memory") || text.contains("No space left") {
        return StoreError::Full(text);
    }
    let damaged = text.contains("WRONGTYPE") || text.contains("not an integer");
    if damaged || error.kind() == ErrorKind::UnexpectedReturnType {
        return StoreError::Corrupt(text);
    }
    StoreError::Down(text)
}

/// Of connections.
static NUMBERS: AtomicU64 = AtomicU64::new(0);
/// Longer than a handshake over half the world takes, with a lost packet.
const CONNECT_AT_MOST: Duration = Duration::from_secs(2);

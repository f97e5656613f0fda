//! A route to a flag service that speaks OFREP: what it answers while the service does not.
//!
//! It listens to what the service says and remembers it, for each flag, evaluation context and set of credentials. When the
//! service fails, what it said last is the answer (`STALE`), else the declared default (`DEFAULT`), else an honest error. What it
//! said to one caller is never told to another: the credentials are part of what an answer is remembered by.
//!
//! Bodies are read whole here, so they are bounded: a larger question is answered with defaults only, and a larger answer is
//! forwarded and not remembered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use seaworthy::clock;
use seaworthy::flags::ofrep::{self, Asked};
use seaworthy::flags::{Answer, Fingerprint, Good, Keeper, KeeperConfig, Notice, Snapshot, Trouble};
use serde_json::{Value, json};

/// The flags of one route, shared by all workers.
#[derive(Debug)]
pub(crate) struct FlagRoute {
    declared: BTreeMap<String, Value>,
    keeper: Keeper,
}

/// What a caller asked the flag service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    asked: Asked,
    /// What the service knows the caller by. Two callers with different keys see different flags.
    credentials: Vec<Vec<u8>>,
}

/// What the service's answer is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lesson {
    /// It is an answer: the caller gets it as it is.
    Forward,
    /// It is none; why, in a word.
    FallBack(&'static str),
}

/// Which kind of value is answered with instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// At least one value is the last-known-good.
    Stale,
    /// Declared defaults alone.
    Default,
    /// None.
    Error,
}

/// What is answered instead.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Fallen {
    pub status: StatusCode,
    /// JSON, as OFREP has it.
    pub body: Value,
    /// When the service last confirmed the oldest of the values, since 1970; `None` if none is its own.
    pub since: Option<Duration>,
    pub which: Which,
}

impl FlagRoute {
    /// Reads what is known from `data_file`. `tell` hears what happens to that file, from another thread.
    pub(crate) fn new(
        defaults: Vec<(String, Value)>,
        data_file: Option<PathBuf>,
        tell: impl Fn(&Notice) + Send + Sync + 'static,
    ) -> Self {
        let keeper = Keeper::open(KeeperConfig { file: data_file, ..KeeperConfig::default() }, tell);
        Self { declared: defaults.into_iter().collect(), keeper }
    }

    /// What is asked, if that is a question to a flag service.
    pub(crate) fn is_ofrep(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Question> {
        if method != Method::POST {
            return None;
        }
        let asked = Asked::of_path(path)?;
        let credentials = CREDENTIALS.into_iter().map(|name| {
            let values: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
            values.join(&b","[..])
        });
        Some(Question { asked, credentials: credentials.collect() })
    }

    /// The service answered: learns from it, and tells what it is worth. `context_body` is what the caller asked with, and
    /// `answer_body` must not be compressed.
    pub(crate) fn learn(
        &self,
        question: &Question,
        context_body: &[u8],
        status: StatusCode,
        answer_body: &[u8],
    ) -> Lesson {
        if status == StatusCode::OK && answer_body.len() > MOST_ANSWER_BYTES {
            return Lesson::Forward;
        }
        let context = question.fingerprint(context_body);
        let status = status.as_u16();
        let said = match &question.asked {
            Asked::One(flag) => ofrep::read_one(flag, status, answer_body).map(|answer| {
                self.heard(context, |keeper, now, context| keeper.learn(now, flag, context, &answer))
            }),
            // It is sent on, so the caller knows what has not changed, and so do we if we saw it.
            Asked::All if status == 304 => {
                self.heard(context, |keeper, now, context| keeper.confirm(now, context));
                Ok(())
            }
            Asked::All => ofrep::read_all(status, answer_body).map(|flags| {
                self.heard(context, |keeper, now, context| learn_all(keeper, now, context, flags))
            }),
        };
        match said {
            Ok(()) => Lesson::Forward,
            Err(Trouble::NotFound) => {
                if let Asked::One(flag) = &question.asked {
                    self.heard(context, |keeper, _, context| keeper.forget(flag, context));
                }
                Lesson::Forward
            }
            // Whom the service turns away is not let in here.
            Err(Trouble::BadContext { .. } | Trouble::Unauthorized(_)) => Lesson::Forward,
            // Neither is a request that it does not understand helped by an older answer.
            Err(Trouble::Status(400 | 405 | 413 | 415)) => Lesson::Forward,
            Err(trouble) => Lesson::FallBack(trouble.name()),
        }
    }

    /// The service has no answer, because of `reason`, a word: what the caller gets instead.
    pub(crate) fn fall_back(&self, question: &Question, context_body: &[u8], reason: &str) -> Fallen {
        if let Some(refused) = question.refused(context_body) {
            return refused;
        }
        let (now, context) = (clock::wall(), question.fingerprint(context_body));
        match &question.asked {
            Asked::One(flag) => self.one_instead(now, flag, context, reason),
            Asked::All => self.all_instead(now, context, reason),
        }
    }

    /// How the memory stands.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.keeper.snapshot()
    }

    /// Has the file written if it is not up to date, for at most `within`; blocks. Whether it is up to date.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        self.keeper.flush(within).is_ok()
    }

    /// Remembers something, if it is known of whom.
    fn heard(&self, context: Option<Fingerprint>, remember: impl FnOnce(&Keeper, Duration, Fingerprint)) {
        if let Some(context) = context {
            remember(&self.keeper, clock::wall(), context);
        }
    }

    fn one_instead(&self, now: Duration, flag: &str, context: Option<Fingerprint>, reason: &str) -> Fallen {
        if let Some(good) = context.and_then(|context| self.keeper.last(now, flag, context)) {
            let body = ofrep::write_last_known_good(flag, &good, good.age(now), reason);
            return Fallen { status: StatusCode::OK, body, since: Some(good.at), which: Which::Stale };
        }
        match self.declared.get(flag) {
            Some(value) => {
                let body = ofrep::write_declared(flag, value, reason);
                Fallen { status: StatusCode::OK, body, since: None, which: Which::Default }
            }
            None => nothing(Some(flag)),
        }
    }

    fn all_instead(&self, now: Duration, context: Option<Fingerprint>, reason: &str) -> Fallen {
        let known: BTreeMap<Arc<str>, Arc<Good>> = context
            .map(|context| self.keeper.last_of_all(now, context))
            .unwrap_or_default()
            .into_iter()
            .collect();
        let since = known.values().map(|good| good.at).min();
        let declared = self.declared.iter().filter(|(flag, _)| !known.contains_key(flag.as_str()));
        let mut flags: Vec<Value> = known
            .iter()
            .map(|(flag, good)| ofrep::write_last_known_good(flag, good, good.age(now), reason))
            .collect();
        flags.extend(declared.map(|(flag, value)| ofrep::write_declared(flag, value, reason)));
        if flags.is_empty() {
            return nothing(None);
        }
        let which = if since.is_some() { Which::Stale } else { Which::Default };
        Fallen { status: StatusCode::OK, body: json!({ "flags": flags }), since, which }
    }
}

impl Question {
    /// For whom it is asked. `None` if that can't be known.
    fn fingerprint(&self, body: &[u8]) -> Option<Fingerprint> {
        if body.len() > MOST_CONTEXT_BYTES {
            return None;
        }
        let context = ofrep::context_of(body).ok()?;
        let scope: Vec<&[u8]> = self.credentials.iter().map(Vec::as_slice).collect();
        Some(Fingerprint::scoped(&scope, &context))
    }

    /// The answer to a question that no service would answer.
    fn refused(&self, body: &[u8]) -> Option<Fallen> {
        if body.len() > MOST_CONTEXT_BYTES {
            return None;
        }
        let Err(Trouble::BadContext { code, details }) = ofrep::context_of(body) else { return None };
        let body = ofrep::write_error(self.flag(), &code, &details);
        Some(Fallen { status: StatusCode::BAD_REQUEST, body, since: None, which: Which::Error })
    }

    fn flag(&self) -> Option<&str> {
        match &self.asked {
            Asked::One(flag) => Some(flag),
            Asked::All => None,
        }
    }
}

fn learn_all(keeper: &Keeper, now: Duration, context: Fingerprint, flags: ofrep::OfAll) {
    let (mut answers, mut failed): (Vec<(String, Answer)>, Vec<String>) = Default::default();
    for (flag, said) in flags {
        match said {
            Ok(answer) => answers.push((flag, answer)),
            Err(Trouble::NotFound) => {}
            // It stays what it was.
            Err(_) => failed.push(flag),
        }
    }
    keeper.learn_all(now, context, &answers, |flag| failed.iter().any(|failed| failed == flag));
}

fn nothing(flag: Option<&str>) -> Fallen {
    let details =
        "the flag service does not answer, nothing is known for this context, and no default is declared";
    let body = ofrep::write_error(flag, "GENERAL", details);
    Fallen { status: StatusCode::SERVICE_UNAVAILABLE, body, since: None, which: Which::Error }
}

/// What a flag service may know its callers by (the protocol's two security schemes, and a session).
const CREDENTIALS: [header::HeaderName; 3] =
    [header::AUTHORIZATION, header::HeaderName::from_static("x-api-key"), header::COOKIE];
/// The longest question that is answered from memory: a context is a few hundred bytes.
pub(crate) const MOST_CONTEXT_BYTES: usize = 64 << 10;
/// The longest answer that is remembered: some thousand flags.
pub(crate) const MOST_ANSWER_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests;

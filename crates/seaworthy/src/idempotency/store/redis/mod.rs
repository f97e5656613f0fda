//! Keys in a Redis that several processes share.
//!
//! A record is one hash; a Lua script takes each step, so no two of them meet in the middle. All keys that a step touches have
//! one hash tag, the first half of the SHA-256 of what is remembered, so a cluster has them on one node. Redis 6 or later.
//!
//! ```text
//! <prefix>:idem:{<32 hex digits>}                    the record        expires with its retention
//! <prefix>:idem:{<32 hex digits>}:<token>:<number>   a chunk           expires with its record
//! <prefix>:idem:{<32 hex digits>}:releases           its releases      a stream; 365 days
//! <prefix>:idem:releases                             which records were released, the last 10,000: where to look
//! ```
//!
//! **Time.** Redis forgets a record by itself, by its own clock; no other clock is compared with it. What moves that server's
//! wall clock moves what is left of the retention.
//!
//! **Durability.** Redis acknowledges what is on its disk only with `appendonly yes` and `appendfsync always`; with less, a key
//! whose result was acknowledged can be carried out twice after a crash. [`Redis::durability`] asks the server; who makes a
//! store should, and say so loudly. A replica that is promoted knows only what had reached it, whatever the settings: where
//! that is not good enough, PostgreSQL with a synchronous standby is the answer.
//!
//! **Which runtime.** The one connection is served by a task on the runtime that [`Redis::new`] is given, and steps may be
//! awaited on any other runtime of tokio that has its timers enabled. The former must outlive the store and be driven all
//! along; once it has ended, every step is [`StoreError::Down`].
//!
//! Of a cluster of several nodes, one store speaks to one node, and what lies on others is [`StoreError::Down`]: reach such a
//! cluster through an endpoint that routes.

mod line;
mod record;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, IntoConnectionInfo as _, Script, Value};
use tokio::runtime::Handle;

use self::line::{Line, Question};
use self::record::{Names, Read, integer, texts};
use super::durability::Durability;
use super::{Claim, Hold, Id, Page, Record, Release, Reserved, Settled, Step, Store, StoreError, Token};

/// A Redis that keeps keys. See the [module](self).
pub struct Redis {
    line: Arc<Line>,
    prefix: String,
    timeout: Duration,
}

/// How a Redis is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// What the names of all its keys begin with, so that several can share a server. 1 to 64 letters, digits and `-_.:`.
    /// By default `seaworthy`.
    pub prefix: String,
    /// How long a step takes at most; then it is [`StoreError::Down`]. By default 1 s: a hundred times what a slow disk's flush
    /// takes, and still bearable for a caller.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { prefix: "seaworthy".into(), timeout: Duration::from_secs(1) }
    }
}

impl Redis {
    /// The Redis at `url` (`redis://[user:password@]host[:port][/database]`). Nothing is connected yet; its connection will live
    /// on `runtime`.
    ///
    /// # Errors
    /// What is wrong with the URL or the options. Its text does not repeat the URL.
    pub fn new(url: &str, options: Options, runtime: Handle) -> Result<Self, BadRedis> {
        let Options { prefix, timeout } = options;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if !(1..=64).contains(&prefix.len()) || !prefix.bytes().all(fits) {
            // Not only for the sake of cleanliness: braces would be a hash tag of their own, `*` would match when listing.
            return Err(BadRedis("a prefix has 1 to 64 letters, digits and `-_.:`".into()));
        }
        // Whatever the library says may quote the URL.
        let info = url.into_connection_info().map_err(|_| BadRedis(BAD_URL.into()))?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err(BadRedis(
                "`rediss://` (TLS) is not supported: use `redis://` on a network you trust".into(),
            ));
        }
        // Questions are small and wait for nobody.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(info).map_err(|_| BadRedis(BAD_URL.into()))?;
        Ok(Self { line: Arc::new(Line::new(client, runtime)), prefix, timeout })
    }

    /// What the server promises of what it acknowledged, by its settings now.
    ///
    /// # Errors
    /// [`StoreError::Down`] if it does not answer.
    pub async fn durability(&self) -> Result<Durability, StoreError> {
        // Patterns, as versions before 7 take one argument only.
        let mut settings = Vec::new();
        for pattern in ["append*", "maxmemory*"] {
            let question = redis::cmd("CONFIG").arg("GET").arg(pattern).to_owned();
            match self.line.ask(Question::Plain(&question), self.timeout).await {
                Ok(answer) => settings.extend(texts(answer)?),
                Err(StoreError::Down(why)) if refused(&why) => return Ok(Durability::Untold(why)),
                Err(error) => return Err(error),
            }
        }
        let setting = |name: &str| {
            let at = settings.iter().step_by(2).position(|found| found == name)?;
            settings.get(at * 2 + 1).map(String::as_str)
        };
        Ok(weighed(&setting))
    }

    async fn run(&self, script: &Script, keys: &[&str], args: &[&[u8]]) -> Result<Value, StoreError> {
        let mut question = script.prepare_invoke();
        question.key(keys);
        for arg in args {
            question.arg(*arg);
        }
        self.line.ask(Question::Script(&question), self.timeout).await
    }

    fn names(&self, id: &Id) -> Names {
        Names::new(&self.prefix, id)
    }

    /// Reserves or takes over, as the script has it.
    async fn begin(
        &self,
        script: &Script,
        id: &Id,
        claim: &Claim,
        from: Option<Token>,
    ) -> Result<Reserved, StoreError> {
        id.check()?;
        let names = self.names(id);
        let (owner, retention, lease) =
            (owner(claim.owner), millis(claim.retention), claim.lease_ms().to_string());
        let mut args =
            vec![id.place.as_bytes(), id.client.as_bytes(), id.key.as_bytes(), &claim.fingerprint.0];
        args.extend([owner.as_bytes(), retention.as_bytes(), lease.as_bytes()]);
        let from = from.map(|token| token.to_string());
        args.extend(from.iter().map(String::as_bytes));
        let read = Read::new(&names.record);
        let mut answer = read.array(self.run(script, &[&names.record], &args).await?)?.into_iter();
        match (answer.next(), answer.next(), answer.next()) {
            (Some(Value::BulkString(word)), Some(token), left) if word == b"new" => {
                let token = read.token(token)?;
                if let Some(left) = left {
                    self.drop_chunks(&names, Token(token.0 - 1), read.number(left, "number of chunks")?);
                }
                Ok(Reserved::New(Hold { token, owner: claim.owner }))
            }
            (Some(Value::BulkString(word)), Some(record), None) if word == b"found" => {
                let (found, record) = read.record(record)?;
                read.is_of(&found, id)?;
                Ok(Reserved::Found(record))
            }
            _ => Err(read.bad("answer")),
        }
    }

    /// Drops the chunks that a token has left and that nothing refers to any more, behind the caller's back. What is not dropped
    /// expires in its time.
    fn drop_chunks(&self, names: &Names, token: Token, left: u64) {
        if left == 0 {
            return;
        }
        let mut question = redis::cmd("UNLINK");
        for number in 0..u32::try_from(left).unwrap_or(u32::MAX).min(DROPPED_AT_ONCE) {
            question.arg(names.chunk(token, number));
        }
        self.line.tell(question, self.timeout);
    }

    async fn settled(
        &self,
        id: &Id,
        hold: Hold,
        settled: &Settled,
        retention: Duration,
    ) -> Result<bool, StoreError> {
        let names = self.names(id);
        let chunks = match settled {
            Settled::Done(answer) => answer.chunks,
            Settled::Unknown | Settled::Free => 0,
        };
        let chunks: Vec<String> = (0..chunks).map(|number| names.chunk(hold.token, number)).collect();
        let keys: Vec<&str> = std::iter::once(&names.record).chain(&chunks).map(String::as_str).collect();
        let (token, owner, retention) = (hold.token.to_string(), owner(hold.owner), millis(retention));
        let phase = settled.phase().name();
        let count = chunks.len().to_string();
        let mut args = vec![token.as_bytes(), owner.as_bytes(), phase.as_bytes(), retention.as_bytes()];
        if let Settled::Done(answer) = settled {
            args.extend([&answer.head[..], &answer.body[..], count.as_bytes()]);
        }
        let read = Read::new(&names.record);
        match integer(self.run(&SETTLE, &keys, &args).await?) {
            Some(1) => Ok(true),
            Some(0) => Ok(false),
            Some(missing @ ..0) => {
                Err(StoreError::Corrupt(format!("chunk {} of {} is gone", -missing - 1, names.record)))
            }
            _ => Err(read.bad("answer")),
        }
    }

    /// A page of names, in the cursor's order, and where the next begins. A name that Redis gives twice within a page is there
    /// once.
    async fn scan(
        &self,
        from: Option<&str>,
        most: usize,
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let mut cursor = from.unwrap_or("0").to_owned();
        if cursor.parse::<u64>().is_err() {
            return Err(StoreError::Down(format!("{cursor:?} is no place in a listing of Redis")));
        }
        let mut found: Vec<String> = Vec::new();
        for _ in 0..SCANS_PER_PAGE {
            let mut question = redis::cmd("SCAN");
            question.arg(&cursor).arg("MATCH").arg(format!("{}:idem:{{*}}", self.prefix));
            question.arg("COUNT").arg(most.clamp(10, SCAN_AT_ONCE));
            let answer = self.line.ask(Question::Plain(&question), self.timeout).await?;
            let read = Read::new("SCAN");
            let Ok([next, names]) = <[Value; 2]>::try_from(read.array(answer)?) else {
                return Err(read.bad("answer"));
            };
            cursor = read.text(next, "cursor")?;
            found.extend(texts(names)?);
            if cursor == "0" || found.len() >= most {
                break;
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok((found, (cursor != "0").then_some(cursor)))
    }

    async fn listed(&self, from: Option<&str>, most: usize) -> Result<Page, StoreError> {
        let (names, next) = self.scan(from, most).await?;
        let mut page = Page { next, ..Page::default() };
        // One after the other: a pipeline of a cluster may hold one slot only, and nobody waits for a listing.
        for name in &names {
            let found = match self.run(&GLANCE, &[name], &[]).await {
                Ok(Value::Nil) => continue,
                Ok(answer) => Read::new(name).record(answer),
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => page.records.push(found),
                Err(StoreError::Corrupt(_)) => page.unread += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    async fn released(&self, release: &Release) -> Result<bool, StoreError> {
        let names = self.names(&release.id);
        // First where to look, then what happened: nothing that happened is ever missing, and who looks for what did not
        // happen finds nothing.
        let (kept, most) = (millis(RELEASES_KEPT_FOR), RELEASES_KEPT.to_string());
        self.run(&POINT, &[&index(&self.prefix)], &[names.digest.as_bytes(), most.as_bytes()]).await?;

        let (id, token) = (&release.id, release.token.to_string());
        let mut args = vec![token.as_bytes(), id.place.as_bytes(), id.client.as_bytes(), id.key.as_bytes()];
        args.extend([release.reason.as_bytes(), kept.as_bytes(), most.as_bytes()]);
        let answer = self.run(&RELEASE, &[&names.record, &names.releases], &args).await?;
        let left = integer(answer).ok_or_else(|| Read::new(&names.record).bad("answer"))?;
        let Ok(left) = u64::try_from(left) else { return Ok(false) };
        self.drop_chunks(&names, release.token, left);
        Ok(true)
    }

    async fn last_releases(&self, most: usize) -> Result<Vec<Release>, StoreError> {
        let most = most.min(RELEASES_KEPT);
        let mut question = redis::cmd("ZREVRANGE");
        question.arg(index(&self.prefix)).arg(0).arg(-1).arg("WITHSCORES");
        let found = texts(self.line.ask(Question::Plain(&question), self.timeout).await?)?;
        let mut releases: Vec<Release> = Vec::new();
        for pair in found.chunks_exact(2) {
            let [digest, since] = pair else { continue };
            // What is pointed to was released soon after, or not at all: nothing that follows is younger than this.
            let since = since.parse().map_err(|_| Read::new("ZREVRANGE").bad("score"))?;
            let youngest = Duration::from_millis(since).saturating_add(self.timeout);
            if releases.len() >= most && releases.last().is_none_or(|oldest| oldest.at > youngest) {
                break;
            }
            let name = Names::of(&self.prefix, digest).releases;
            let mut question = redis::cmd("XREVRANGE");
            question.arg(&name).arg("+").arg("-").arg("COUNT").arg(most);
            let read = Read::new(&name);
            let entries = read.array(self.line.ask(Question::Plain(&question), self.timeout).await?)?;
            for entry in entries {
                releases.push(read.release(entry)?);
            }
            releases.sort_by_key(|release| std::cmp::Reverse(release.at));
            releases.truncate(most);
        }
        Ok(releases)
    }
}

impl Store for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn reserve<'a>(&'a self, id: &'a Id, claim: &'a Claim) -> Step<'a, Reserved> {
        Box::pin(self.begin(&RESERVE, id, claim, None))
    }

    fn take_over<'a>(&'a self, id: &'a Id, claim: &'a Claim, from: Token) -> Step<'a, Reserved> {
        Box::pin(self.begin(&TAKE_OVER, id, claim, Some(from)))
    }

    fn settle<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        settled: &'a Settled,
        retention: Duration,
    ) -> Step<'a, bool> {
        Box::pin(self.settled(id, hold, settled, retention))
    }

    fn put_chunk<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        number: u32,
        bytes: Bytes,
        retention: Duration,
    ) -> Step<'a, bool> {
        Box::pin(async move {
            let names = self.names(id);
            let chunk = names.chunk(hold.token, number);
            let (token, owner, retention) = (hold.token.to_string(), owner(hold.owner), millis(retention));
            let after = (u64::from(number) + 1).to_string();
            let args = [token.as_bytes(), owner.as_bytes(), &bytes, retention.as_bytes(), after.as_bytes()];
            let answer = self.run(&PUT_CHUNK, &[&names.record, &chunk], &args).await?;
            integer(answer).map(|done| done == 1).ok_or_else(|| Read::new(&chunk).bad("answer"))
        })
    }

    fn chunk<'a>(&'a self, id: &'a Id, token: Token, number: u32) -> Step<'a, Option<Bytes>> {
        Box::pin(async move {
            let names = self.names(id);
            let chunk = names.chunk(token, number);
            let token = token.to_string();
            match self.run(&CHUNK, &[&names.record, &chunk], &[token.as_bytes()]).await? {
                Value::Nil => Ok(None),
                Value::BulkString(bytes) => Ok(Some(bytes.into())),
                _ => Err(Read::new(&chunk).bad("answer")),
            }
        })
    }

    fn find<'a>(&'a self, id: &'a Id) -> Step<'a, Option<Record>> {
        Box::pin(async move {
            let name = self.names(id).record;
            let read = Read::new(&name);
            match self.run(&FIND, &[&name], &[]).await? {
                Value::Nil => Ok(None),
                answer => {
                    let (found, record) = read.record(answer)?;
                    read.is_of(&found, id)?;
                    Ok(Some(record))
                }
            }
        })
    }

    fn list<'a>(&'a self, from: Option<&'a str>, most: usize) -> Step<'a, Page> {
        Box::pin(self.listed(from, most))
    }

    fn release<'a>(&'a self, release: &'a Release) -> Step<'a, bool> {
        Box::pin(self.released(release))
    }

    fn releases(&self, most: usize) -> Step<'_, Vec<Release>> {
        Box::pin(self.last_releases(most))
    }

    fn sweep(&self, _most: usize) -> Step<'_, usize> {
        // Redis forgets by itself.
        Box::pin(std::future::ready(Ok(0)))
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, prefix, timeout } = self;
        f.debug_struct("Redis").field("line", line).field("prefix", prefix).field("timeout", timeout).finish()
    }
}

/// What is wrong with what a [`Redis`] was to be made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRedis(String);

impl fmt::Display for BadRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadRedis {}

/// What follows from the settings.
fn weighed<'a>(setting: &dyn Fn(&str) -> Option<&'a str>) -> Durability {
    let (Some(file), Some(sync)) = (setting("appendonly"), setting("appendfsync")) else {
        return Durability::Untold("CONFIG GET gives neither `appendonly` nor `appendfsync`".into());
    };
    let mut weak = Vec::new();
    if file != "yes" {
        weak.push(format!("`appendonly` is `{file}`: set it to `yes`"));
    }
    if sync != "always" {
        weak.push(format!("`appendfsync` is `{sync}`: set it to `always`"));
    }
    let limited = setting("maxmemory").is_some_and(|bytes| bytes != "0");
    if let Some(policy) = setting("maxmemory-policy")
        && limited
        && policy != "noeviction"
    {
        // A key that was thrown out is absent, and would be carried out again.
        weak.push(format!("`maxmemory-policy` is `{policy}`: set it to `noeviction`"));
    }
    if weak.is_empty() { Durability::Durable } else { Durability::Weaker(weak.join("; ")) }
}

/// Whether the server answered that it won't tell: the command is renamed, or not allowed to this user.
fn refused(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    why.contains("noperm") || why.contains("unknown command") || why.contains("no permissions")
}

fn index(prefix: &str) -> String {
    format!("{prefix}:idem:releases")
}

fn owner(owner: u128) -> String {
    format!("{owner:032x}")
}

/// As Redis wants a lifetime: whole milliseconds, at least one.
fn millis(duration: Duration) -> String {
    duration.clamp(Duration::from_millis(1), AGES).as_millis().to_string()
}

/// A script, after what all of them begin with. It is sent once to each server, and called by its hash.
macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), include_str!($file))))
    };
}

static RESERVE: LazyLock<Script> = script!("reserve.lua");
static TAKE_OVER: LazyLock<Script> = script!("take_over.lua");
static SETTLE: LazyLock<Script> = script!("settle.lua");
static PUT_CHUNK: LazyLock<Script> = script!("put_chunk.lua");
static CHUNK: LazyLock<Script> = script!("chunk.lua");
static FIND: LazyLock<Script> = script!("find.lua");
static GLANCE: LazyLock<Script> = script!("glance.lua");
static RELEASE: LazyLock<Script> = script!("release.lua");
static POINT: LazyLock<Script> = script!("point.lua");

const BAD_URL: &str = "a Redis is `redis://[user:password@]host[:port][/database]` or `redis+unix:///path`";
/// A century: longer than anybody means, and far from what Redis can't count.
const AGES: Duration = Duration::from_secs(100 * 365 * 86_400);
/// As every store.
const RELEASES_KEPT: usize = 10_000;
const RELEASES_KEPT_FOR: Duration = Duration::from_secs(365 * 86_400);
/// Of chunks: 64 MiB, which Redis gives back in the background. More are for their retention to end.
const DROPPED_AT_ONCE: u32 = 1024;
/// How many places of its table Redis looks at in one go: some hundred microseconds, for which nobody else is served.
const SCAN_AT_ONCE: usize = 1000;
/// After so many of them a page is given even if it is not full: a server that holds much else is not searched for long in one
/// step.
const SCANS_PER_PAGE: usize = 100;

//! `seaworthy keys`: what a running proxy keeps under idempotency keys, and how one is set free.

use std::future::Future;

use clap::{Subcommand, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};

use crate::client::Pool;
use crate::failure::Failure;
use crate::out;
use crate::steer::{To, ask};

/// List, show and release what is kept under idempotency keys
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  seaworthy keys list --phase unknown       what nobody knows the end of
  seaworthy keys show orders/0f3a9c51d2e84b7786aa01c4e5d9b320/8e03978e-40d5
  seaworthy keys release orders/0f3a9c51d2e84b7786aa01c4e5d9b320/8e03978e-40d5 \\
      --reason \"the bank has no trace of it\"
  seaworthy keys audit                      what was released, and why")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Release(Release),
    Audit(Audit),
}

/// List the keys
///
/// One line for each: place/client/key, its phase, its token, its age, and the status that is kept. The client is a hash, as what
/// tells clients apart may be a secret. An age is "about" so much where only clocks on the wall tell it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  seaworthy keys list
  seaworthy keys list --place orders --phase running --most 20
  seaworthy keys list --phase unknown --json --admin 10.0.0.7:9901")]
struct List {
    /// Only those of this place, the name of a route
    #[arg(long, value_name = "NAME")]
    place: Option<String>,
    /// Only those in this phase
    #[arg(long, value_name = "PHASE", value_enum)]
    phase: Option<Phase>,
    /// How many at most; whether there are more is said
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    most: u32,
    #[command(flatten)]
    to: To,
}

/// How far an operation has come.
#[derive(Clone, Copy, ValueEnum)]
enum Phase {
    /// It is being carried out
    Running,
    /// It was begun, and nobody knows how it ended; and what runs past its lease
    Unknown,
    /// Whoever asks next begins anew
    Free,
    /// Its result is kept
    Done,
}

/// Show one key, with the headers that are kept of its answer
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  seaworthy keys show \"orders/0f3a9c51d2e84b7786aa01c4e5d9b320/8e03978e-40d5\"")]
struct Show {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    to: To,
}

/// Set one key free, so that whoever asks next begins anew
///
/// Whatever was kept of it is gone. Do it when you know that nothing has happened, or want it to happen again: the next request
/// with the key is carried out, even if one is being carried out now or was before. The reason is kept with the release.
///
/// What is released is shown first. If it has changed by then, nothing is released.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  seaworthy keys release orders/0f3a9c51d2e84b7786aa01c4e5d9b320/8e03978e-40d5 \\
      --reason \"the bank has no trace of it\"
  seaworthy keys release orders/0f3a9c51d2e84b7786aa01c4e5d9b320/8e03978e-40d5 --token 3 \\
      --reason \"stuck since the upgrade\"       only if it still stands as it was seen")]
struct Release {
    #[command(flatten)]
    which: Which,
    /// Why, for who asks later: 1 to 1000 bytes
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// Only if it stands under this token, as `show` has said
    #[arg(long, value_name = "NUMBER")]
    token: Option<u64>,
    #[command(flatten)]
    to: To,
}

/// List what operators released, the newest first
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  seaworthy keys audit --most 20")]
struct Audit {
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=200))]
    most: u32,
    #[command(flatten)]
    to: To,
}

#[derive(clap::Args)]
struct Which {
    /// The key as `list` prints it: place/client/key
    #[arg(value_name = "ID", value_parser = Id::parse)]
    id: Id,
}

pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => talk(list(args)),
        Command::Show(args) => talk(show(args)),
        Command::Release(args) => talk(release(args)),
        Command::Audit(args) => talk(audit(args)),
    }
}

fn talk(talking: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("could not start the runtime", error))?;
    runtime.block_on(talking)
}

async fn list(args: &List) -> Result<(), Failure> {
    let pool = Pool::new(args.to.admin);
    let mut filter = String::new();
    if let Some(place) = &args.place {
        filter.push_str(&format!("&place={}", escaped(place)));
    }
    if let Some(phase) = args.phase.and_then(|phase| phase.to_possible_value()) {
        filter.push_str(&format!("&phase={}", phase.get_name()));
    }
    let most = args.most as usize;
    let (mut found, mut count, mut damaged, mut from) = (Vec::new(), 0, 0, None::<String>);
    let more = loop {
        let from_there = from.map(|from| format!("&from={}", escaped(&from))).unwrap_or_default();
        let page = get(&args.to, &pool, &format!("/api/keys?most={PAGE}{filter}{from_there}")).await?;
        let keys = page["keys"].as_array().ok_or_else(|| Failure::new("the proxy's answer lists no keys"))?;
        let fits = keys.len().min(most - count);
        for key in &keys[..fits] {
            if args.to.json { found.push(key.clone()) } else { out::line(&row(key))? }
        }
        count += fits;
        damaged += page["damaged"].as_u64().unwrap_or(0);
        from = page["next"].as_str().map(str::to_owned);
        if fits < keys.len() || from.is_none() || count == most {
            break fits < keys.len() || from.is_some();
        }
    };
    if args.to.json {
        return out::json(&json!({ "keys": found, "damaged": damaged, "more": more }));
    }
    if damaged > 0 {
        out::aside(&format!(
            "{damaged} more can't be read: they are damaged, and treated as while the store is down (when_down)"
        ))?;
    }
    if more {
        out::aside(&format!("these are the first {count}; there may be more (see --most)"))?;
    } else if count == 0 {
        out::aside("there are none")?;
    }
    Ok(())
}

async fn show(args: &Show) -> Result<(), Failure> {
    let key = get(&args.to, &Pool::new(args.to.admin), &args.which.id.path()).await?;
    if args.to.json { out::json(&key) } else { out::line(&whole(&key)) }
}

async fn release(args: &Release) -> Result<(), Failure> {
    let (to, id, pool) = (&args.to, &args.which.id, Pool::new(args.to.admin));
    let key = get(to, &pool, &id.path()).await?;
    let shown = whole(&key);
    if to.json {
        out::aside(&shown)?
    } else {
        out::line(&shown)?
    }
    // One that is damaged has none that could be shown. Of the embedded store any will do, of others the one that they have.
    let stands = if key["damaged"].is_null() { key["token"].as_u64() } else { args.token.or(Some(0)) };
    let stands = stands.ok_or_else(|| Failure::new("the proxy's answer has no token"))?;
    let token = args.token.unwrap_or(stands);
    if token != stands {
        let what = format!("it stands under token {stands}, not {token}; nothing was released");
        return Err(Failure::new(what));
    }
    let Id { place, client, key } = id;
    let order =
        json!({ "place": place, "client": client, "key": key, "token": token, "reason": args.reason });
    let told = ask(to, &pool, Method::POST, "/api/keys/release", order.to_string()).await?;
    if to.json { out::json(&told) } else { out::line("released") }
}

async fn audit(args: &Audit) -> Result<(), Failure> {
    let path = format!("/api/releases?most={}", args.most);
    let told = get(&args.to, &Pool::new(args.to.admin), &path).await?;
    if args.to.json {
        return out::json(&told);
    }
    let releases = told["releases"].as_array().map_or(&[][..], Vec::as_slice);
    for release in releases {
        let word = |name: &str| plain(release[name].as_str().unwrap_or("?"));
        let (at, id, phase, reason) = (word("at"), word("id"), word("phase"), word("reason"));
        out::line(&format!("{at}  {id}  {phase}, token {}: {reason}", release["token"]))?;
    }
    if releases.is_empty() { out::aside("there are none") } else { Ok(()) }
}

async fn get(to: &To, pool: &Pool, path: &str) -> Result<Value, Failure> {
    ask(to, pool, Method::GET, path, String::new()).await
}

/// A key in one line.
fn row(key: &Value) -> String {
    let answer = key["answer"]["status"].as_u64().map(|status| format!("  {status}")).unwrap_or_default();
    let past = if key["past_lease"] == true { ", past its lease" } else { "" };
    let (id, phase) = (word(key, "id"), word(key, "phase"));
    format!("{id}  {phase}{past}  token {}  {}{answer}", key["token"], age(key))
}

/// A key in some lines.
fn whole(key: &Value) -> String {
    if let Some(what) = key["damaged"].as_str() {
        return format!("{}\n  damaged     {}", word(key, "id"), plain(what));
    }
    let and = if key["orphaned"] == true {
        ", as whoever carried it out is gone"
    } else if key["past_lease"] == true {
        ", past its lease: whoever carries it out may be gone"
    } else {
        ""
    };
    let mut text = format!(
        "{}\n  phase       {}{and}\n  token       {}\n  changed     {}, {} ago",
        word(key, "id"),
        word(key, "phase"),
        key["token"],
        word(key, "changed"),
        age(key)
    );
    if let Some(left) = key["remembered_s"].as_u64() {
        text.push_str(&format!("\n  remembered  for {}", ago(left)));
    }
    let answer = &key["answer"];
    if let Some(status) = answer["status"].as_u64() {
        let kept = if answer["body_kept"] == true { "" } else { ", too long to be kept" };
        text.push_str(&format!("\n  answer      {status}, a body of {} bytes{kept}", answer["body_bytes"]));
    } else if !answer.is_null() {
        text.push_str("\n  answer      something that is no answer of a proxy");
    }
    for header in answer["headers"].as_array().into_iter().flatten() {
        let part = |n: usize| plain(header[n].as_str().unwrap_or("?"));
        text.push_str(&format!("\n    {}: {}", part(0), part(1)));
    }
    text
}

fn word(key: &Value, name: &str) -> String {
    plain(key[name].as_str().unwrap_or("?"))
}

/// How old it is, by the store's own clock or about.
fn age(key: &Value) -> String {
    let about = if key["age_by"] == "store" { "" } else { "about " };
    key["age_s"].as_u64().map_or_else(|| "?".to_owned(), |seconds| format!("{about}{}", ago(seconds)))
}

/// A length of time in its largest unit.
fn ago(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What others wrote, without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Which operation, as it is printed.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Id {
    place: String,
    client: String,
    key: String,
}

impl Id {
    /// Place and key may hold slashes, but the client is 32 hexadecimal digits between two of them: the first that are stand
    /// before the key.
    fn parse(text: &str) -> Result<Self, String> {
        let is_client = |word: &str| {
            word.len() == CLIENT_DIGITS
                && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        for (slash, _) in text.match_indices('/') {
            let Some((client, key)) = text[slash + 1..].split_once('/') else { break };
            if is_client(client) && !key.is_empty() {
                let place = text[..slash].to_owned();
                return Ok(Self { place, client: client.to_owned(), key: key.to_owned() });
            }
        }
        Err("is no place/client/key as `seaworthy keys list` prints it".to_owned())
    }

    /// Where the proxy tells of it.
    fn path(&self) -> String {
        let [place, client, key] = [&self.place, &self.client, &self.key].map(|part| escaped(part));
        format!("/api/key?place={place}&client={client}&key={key}")
    }
}

/// As a part of a query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST_REASON {
        return Err(format!("has to say why, in 1 to {LONGEST_REASON} bytes"));
    }
    Ok(text.to_owned())
}

/// The hash of a client, as it is printed.
const CLIENT_DIGITS: usize = 32;
/// As the proxy takes it.
const LONGEST_REASON: usize = 1000;
/// Keys on a page: few enough that a store answers long before this command gives up.
const PAGE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "0f3a9c51d2e84b7786aa01c4e5d9b320";

    fn id(place: &str, key: &str) -> Id {
        Id { place: place.to_owned(), client: CLIENT.to_owned(), key: key.to_owned() }
    }

    #[test]
    fn an_id_is_read_as_it_is_printed() {
        for (place, key) in
            [("orders", "k"), ("/api/pay", "a/b//c d"), ("/", "/"), ("a/b", CLIENT), ("", "k")]
        {
            let printed = format!("{place}/{CLIENT}/{key}");
            assert_eq!(Id::parse(&printed), Ok(id(place, key)), "{printed}");
        }
        let again = format!("orders/{CLIENT}/x/{CLIENT}/k");
        assert_eq!(Id::parse(&again), Ok(id("orders", &format!("x/{CLIENT}/k"))));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let wrong = [
            String::new(),
            "orders".into(),
            CLIENT.into(),
            format!("orders/{CLIENT}"),
            format!("orders/{CLIENT}/"),
        ];
        for text in wrong.into_iter().chain([format!("orders/{}x/k", &CLIENT[1..]), "orders/ann/k".into()]) {
            assert!(Id::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_query_holds_nothing_that_it_cannot() {
        assert_eq!(
            id("/a", "b c&d=%+ü").path(),
            format!("/api/key?place=%2Fa&client={CLIENT}&key=b%20c%26d%3D%25%2B%C3%BC")
        );
    }

    #[test]
    fn what_others_wrote_does_not_move_the_cursor() {
        let key = json!({ "id": "a\u{1b}[2J/b", "phase": "done", "token": 1, "age_s": 7300, "age_by": "store", "answer": { "status": 201 } });
        assert_eq!(row(&key), "a\u{fffd}[2J/b  done  token 1  2h  201");
    }

    #[test]
    fn what_is_past_its_lease_and_what_is_not_sure_of_its_age_says_so() {
        let key = json!({ "id": "a/b", "phase": "running", "token": 2, "past_lease": true, "age_s": 90, "age_by": "clocks" });
        assert_eq!(row(&key), "a/b  running, past its lease  token 2  about 90s");
        let text = whole(&key);
        assert!(
            text.contains("phase       running, past its lease: whoever") && text.contains("about 90s ago"),
            "{text}"
        );
    }
}

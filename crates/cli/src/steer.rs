//! `seaworthy evacuate`, `restore` and `restart`: orders to a running proxy, followed until they are carried out.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::client::Pool;
use crate::failure::Failure;
use crate::out;

/// Take a region out of service, in steps
///
/// Calls go to the other regions, a growing share at a time, until none goes to this one and those in flight there have
/// ended. Refuses if what remains could not carry the load. Nothing is lost: `seaworthy restore REGION` takes it back.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  seaworthy evacuate eu-west --reason \"network maintenance\"
  seaworthy evacuate eu-west --over 1m --admin 10.0.0.7:9901
  seaworthy evacuate eu-west --force        even if what remains can't carry the load")]
pub(crate) struct Evacuate {
    #[command(flatten)]
    order: RegionOrder,
    /// Go on even if what remains could not carry the load
    #[arg(long)]
    force: bool,
}

/// Take an evacuated region back into service, in steps
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  seaworthy restore eu-west --over 1m")]
pub(crate) struct Restore {
    #[command(flatten)]
    order: RegionOrder,
}

#[derive(clap::Args)]
struct RegionOrder {
    /// The region, as the endpoints' labels name it
    #[arg(value_name = "REGION")]
    region: String,
    /// How long it takes, such as 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::length::any)]
    over: Duration,
    /// Why, for the proxy's log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    to: To,
}

/// Restart the replicas of a supervised process, one at a time
///
/// Each is taken out of its upstream, may finish its calls, is stopped, started anew, and taken back once it is ready.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  seaworthy restart api")]
pub(crate) struct Restart {
    /// The process, as the configuration names it
    #[arg(value_name = "PROCESS")]
    process: String,
    #[command(flatten)]
    to: To,
}

/// Which proxy, and how it is told.
#[derive(clap::Args)]
pub(crate) struct To {
    /// Where the proxy's operators connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901", value_parser = address)]
    pub(crate) admin: SocketAddr,
    /// Print the end as one JSON object on stdout; progress goes to stderr
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn evacuate(args: &Evacuate) -> Result<(), Failure> {
    let RegionOrder { region, over, reason, to } = &args.order;
    let order = json!({ "region": region, "over_ms": millis(*over), "force": args.force, "reason": reason });
    follow(to, "/api/evacuate", &order, "/api/regions", &|state| {
        let found = named(state, "regions", region)?;
        Some((Ok(found["state"] == "evacuated"), of_region(region, found)))
    })
}

pub(crate) fn restore(args: &Restore) -> Result<(), Failure> {
    let RegionOrder { region, over, reason, to } = &args.order;
    let order = json!({ "region": region, "over_ms": millis(*over), "reason": reason });
    follow(to, "/api/restore", &order, "/api/regions", &|state| {
        let found = named(state, "regions", region)?;
        Some((Ok(found["state"] == "serving"), of_region(region, found)))
    })
}

pub(crate) fn restart(args: &Restart) -> Result<(), Failure> {
    let process = &args.process;
    let order = json!({ "process": process });
    follow(&args.to, "/api/restart", &order, "/api/processes", &|state| {
        let found = named(state, "processes", process)?;
        let replicas = found["replicas"].as_array().map_or(&[][..], Vec::as_slice);
        let states: Vec<&str> = replicas.iter().filter_map(|replica| replica["state"].as_str()).collect();
        let error = found["restart_error"]
            .as_str()
            .map(|error| Failure::because("the restart failed", error.to_owned()));
        let text = format!("{process}: {}", states.join(", "));
        Some((error.map_or(Ok(found["restarting"] == false), Err), text))
    })
}

/// Whether the order is carried out or has failed, and how far it is, of the state that the proxy tells; `None` if it tells nothing of it.
type Progress<'a> = &'a dyn Fn(&Value) -> Option<(Result<bool, Failure>, String)>;

/// Gives the order, and looks how far it is until it is carried out.
fn follow(to: &To, path: &str, order: &Value, look_at: &str, progress: Progress<'_>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("could not start the runtime", error))?;
    runtime.block_on(async {
        let pool = Pool::new(to.admin);
        ask(to, &pool, Method::POST, path, order.to_string()).await?;
        let mut said = String::new();
        loop {
            let state = ask(to, &pool, Method::GET, look_at, String::new()).await?;
            let (done, text) = progress(&state)
                .ok_or_else(|| Failure::new("the proxy does not know of the order any more"))?;
            if text != said {
                if to.json {
                    out::aside(&text)?
                } else {
                    out::line(&text)?
                }
                said = text;
            }
            if done? {
                return if to.json { out::json(&state) } else { Ok(()) };
            }
            sleep(BETWEEN_LOOKS).await;
        }
    })
}

/// What the proxy says to it.
pub(crate) async fn ask(
    to: &To,
    pool: &Pool,
    method: Method,
    path: &str,
    body: String,
) -> Result<Value, Failure> {
    let no_answer = || format!("could not talk to the proxy at {} (see --admin)", to.admin);
    let answer = timeout(PATIENCE, pool.call(method, path, Bytes::from(body)))
        .await
        .map_err(|late| Failure::because(no_answer(), late))?
        .map_err(|broken| Failure::because(no_answer(), broken))?;
    let value: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::because("the proxy's answer is not JSON", error))?;
    if answer.status.is_success() {
        return Ok(value);
    }
    let detail = value["detail"].as_str().unwrap_or("no reason given");
    Err(Failure::because(format!("the proxy refused ({})", answer.status), detail.to_owned()))
}

fn named<'a>(state: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    state[list].as_array()?.iter().find(|entry| entry["name"] == name)
}

fn of_region(region: &str, found: &Value) -> String {
    let state = found["state"].as_str().unwrap_or("?");
    let share = found["share"].as_f64().unwrap_or(0.0) * 100.0;
    let why = found["why"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{region}: {state}, {share:.0} % of its calls, {} in flight{why}", found["in_flight"])
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let mut found =
        text.to_socket_addrs().map_err(|error| format!("is no address such as 127.0.0.1:9901: {error}"))?;
    found.next().ok_or_else(|| "is a name without an address".to_owned())
}

/// How long an answer of the proxy may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Often enough to look alive.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

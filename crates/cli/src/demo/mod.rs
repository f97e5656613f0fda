//! `seaworthy demo`: a small shop that is broken on purpose, with and without Seaworthy, side by side.
//!
//! Everything in it is real: the services, the proxy and this program are processes of their own, and what goes wrong
//! is done to them by signals. Files: [`service`] is one instance, [`children`] keeps them, [`script`] says what goes
//! wrong when, [`proxy`] configures and starts Seaworthy, [`traffic`] makes the calls, [`score`] counts
//! them, [`visits`] looks at the shop's page, [`policies`] reads what the proxy did, [`regions`] where it sent the calls, [`board`] shows it live and [`report`] at the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

mod board;
mod children;
mod goods;
mod policies;
mod ports;
mod proxy;
mod regions;
mod report;
mod score;
mod script;
pub(crate) mod service;
mod text;
mod traffic;
mod visits;

use crate::client::Pool;
use crate::failure::Failure;
use crate::out::{self, Terminal};
use board::{Board, View};
use children::{REGIONS, STOREFRONT, Shop};
use policies::{Books, State, Watcher};
use proxy::Proxy;
use regions::Course;
use report::{Findings, Report};
use score::Score;
use script::Phase;
use traffic::{Done, Roads};
use visits::Visits;

/// Break a small shop on purpose and see what Seaworthy makes of it
///
/// Starts four services in two regions, three instances each in the near one and two in the far one, and a proxy in front
/// of them, all on this machine and needing nothing but this program. The same calls are made straight to the services
/// and through Seaworthy while instances are killed, frozen, slowed down and made to fail, while one service disappears
/// altogether, and while the near region is lost. At the end a scoreboard compares both.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  seaworthy demo                      36 seconds, live in the terminal
  seaworthy demo --for 2m --seed 7    longer, and other instances are hit
  seaworthy demo --json | jq '{direct: .direct.success_rate, through: .through.success_rate}'")]
pub(crate) struct Args {
    /// How long calls are made: 10s to 1h, such as 45s or 2m
    #[arg(long = "for", value_name = "TIME", default_value = "36s", value_parser = length)]
    total: Duration,
    /// Which instances are hit, and which calls are made
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Calls a second, each way
    #[arg(long, value_name = "N", default_value_t = 150, value_parser = clap::value_parser!(u32).range(10..=2000))]
    rate: u32,
    /// Print the result as one JSON object on stdout; progress goes to stderr
    #[arg(long)]
    json: bool,
}

/// Runs the demo to its end, or until it is told to stop.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("could not start the runtime", error))?;
    let terminal = Terminal::of_stdout();
    let mut board = Board::new(terminal, args.json);
    let played = runtime.block_on(async {
        let mut stop = Stop::new()?;
        let stage = tokio::select! {
            stage = Stage::set(args, &board) => stage?,
            () = stop.asked() => return Err(Failure::Interrupted),
        };
        play(args, stage, &mut board, &mut stop).await
    });
    // Whatever happened, the table must not stay where the message or the result goes.
    board.clear()?;
    let findings = played?;
    let interrupted = findings.interrupted;
    let report = Report::new(findings);
    if args.json {
        out::json(&report)?;
    } else {
        out::line(&report.lines(terminal.colour).join("\n"))?;
    }
    if interrupted { Err(Failure::Interrupted) } else { Ok(()) }
}

/// The requests to end: Ctrl-C, SIGTERM, and the terminal closing.
struct Stop {
    signals: [Signal; 3],
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::because("could not listen for signals", error));
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(listen);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What must stand before the first call is made. Dropping it ends every process.
struct Stage {
    shop: Shop,
    proxy: Proxy,
    script: Vec<Phase>,
}

impl Stage {
    async fn set(args: &Args, board: &Board) -> Result<Self, Failure> {
        let shop = Shop::open(args.seed).await?;
        let proxy = Proxy::start(&shop.addresses(), &shop.sides()).await?;
        let ids = |region: usize| shop.ids(region).iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        board.say(&format!(
            "seaworthy demo: seed {}, {} calls/s each way, {} s\nproxy {} (process {})",
            args.seed,
            args.rate,
            args.total.as_secs_f64(),
            proxy.address,
            proxy.id(),
        ))?;
        for (region, name) in REGIONS.iter().enumerate() {
            board.say(&format!("region {name} (processes {})", ids(region)))?;
        }
        board.say(&format!("the shop's page {}", page_at(proxy.address)))?;
        Ok(Self { shop, proxy, script: script::phases(args.total, args.seed) })
    }

    /// Ends the failure of the phase before `number` and begins that of `number`.
    async fn enter(&mut self, number: usize) -> Result<(), Failure> {
        let failure = |number: usize| self.script.get(number).and_then(|phase| phase.failure);
        let (over, next) = (number.checked_sub(1).and_then(failure), failure(number));
        if let Some((fault, target)) = over {
            self.shop.heal(fault, target).await?;
        }
        if let Some((fault, target)) = next {
            self.shop.inject(fault, target)?;
        }
        Ok(())
    }

    fn must_live(&mut self) -> Result<(), Failure> {
        self.shop.must_live()?;
        self.proxy.must_live()
    }
}

/// Makes the calls, breaks the shop, and keeps the board, until all is over or it is asked to stop.
async fn play(
    args: &Args,
    mut stage: Stage,
    board: &mut Board,
    stop: &mut Stop,
) -> Result<Findings, Failure> {
    let (mut score, mut books) = (Score::new(&stage.script), Vec::new());
    let mut course = Course::new(args.total);
    let (tell, mut done) = mpsc::unbounded_channel();
    let roads = Arc::new(Roads::new(&stage.shop.addresses(), stage.proxy.address));
    let page = page_at(stage.proxy.address);
    let watcher = Watcher::new(stage.proxy.admin, stage.shop.addresses());
    let (publish, state) = watch::channel(State::default());
    let _watching = Abort(tokio::spawn(watcher.clone().follow(publish)));
    let start = Instant::now();
    let _sending = Abort(tokio::spawn(traffic::send(roads, start, args.total, args.rate, args.seed, tell)));

    let (tell, mut seen) = mpsc::unbounded_channel();
    let visitor = Arc::new(Pool::new(stage.proxy.address));
    let _visiting = Abort(tokio::spawn(visits::look(visitor, start, args.total, tell)));
    let mut visits = Visits::default();

    let mut ticks = interval(if board.is_live() { REDRAW } else { LOOK_AFTER });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut phase = 0;
    board.say(&board::begins(&stage.script[phase]))?;
    let interrupted = loop {
        tokio::select! {
            biased;
            () = stop.asked() => break true,
            () = tokio::time::sleep_until(start + stage.script[phase].until), if phase + 1 < stage.script.len() => {
                books.push(watcher.books().await?);
                phase += 1;
                tokio::select! {
                    entered = stage.enter(phase) => entered?,
                    () = stop.asked() => break true,
                }
                board.say(&board::begins(&stage.script[phase]))?;
            }
            _ = ticks.tick() => {
                stage.must_live()?;
                let now = start.elapsed();
                let (script, state) = (&stage.script[phase], &state.borrow());
                course.note(now, state.books.spread);
                let (seed, rate, total) = (args.seed, args.rate, args.total);
                board.draw(&View { seed, rate, now, total, phase: script, page: &page, score: &score, state })?;
            }
            Some(look) = seen.recv() => visits.add(&look),
            ended = done.recv() => match ended {
                Some(ended) => count(&mut score, ended, &mut done),
                None => break false,
            },
        }
    };
    while let Some(look) = if interrupted { None } else { seen.recv().await } {
        visits.add(&look);
    }
    books.push(last_books(&watcher, &state, interrupted).await?);
    let (seed, rate, total) = (args.seed, args.rate, args.total);
    Ok(Findings {
        seed,
        rate,
        total,
        interrupted,
        script: stage.script.clone(),
        score,
        visits,
        books,
        course,
    })
}

/// Where people see the shop.
fn page_at(proxy: std::net::SocketAddr) -> String {
    format!("http://{proxy}/{STOREFRONT}")
}

/// Counts `ended` and whatever else has ended meanwhile.
fn count(score: &mut Score, ended: Done, done: &mut mpsc::UnboundedReceiver<Done>) {
    score.add(ended);
    while let Ok(ended) = done.try_recv() {
        score.add(ended);
    }
}

/// The proxy's books at the end. After an interruption the latest known must do: ending comes first.
async fn last_books(
    watcher: &Watcher,
    state: &watch::Receiver<State>,
    interrupted: bool,
) -> Result<Books, Failure> {
    if interrupted { Ok(state.borrow().books) } else { watcher.books().await }
}

/// A task that ends with its owner.
struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn length(text: &str) -> Result<Duration, String> {
    match crate::length::any(text)? {
        length if (SHORTEST..=LONGEST).contains(&length) => Ok(length),
        _ => Err(format!("must be from {} s to {} h", SHORTEST.as_secs(), LONGEST.as_secs() / 3600)),
    }
}

/// A shorter demo has too few calls in a phase to say anything.
const SHORTEST: Duration = Duration::from_secs(10);
/// Long enough for a screen at an exhibition; every figure is kept in fixed memory.
const LONGEST: Duration = Duration::from_secs(3600);
/// Four pictures a second read as live and can still be read.
const REDRAW: Duration = Duration::from_millis(250);
/// How often to see whether all children live when nothing is drawn.
const LOOK_AFTER: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_bounds() {
        assert_eq!(length("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(length("1h"), Ok(LONGEST));
        for wrong in ["9s", "61m", "30"] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }
}

//! The live table, and the plain lines that stand for it where there is no terminal.

use std::io::{self, Write};
use std::time::Duration;

use super::children::{DISTANCE, NEAR_INSTANCES, SERVICES};
use super::policies::{Breaker, LATELY, State};
use super::score::{Score, Tally};
use super::script::Phase;
use super::text::{NOTHING, millis, percent, rough_percent};
use super::traffic::{Kind, Way};
use crate::failure::Failure;
use crate::out::{self, Ink, Terminal};

/// Everything that a picture shows.
pub(super) struct View<'a> {
    pub(super) seed: u64,
    pub(super) rate: u32,
    pub(super) now: Duration,
    pub(super) total: Duration,
    pub(super) phase: &'a Phase,
    /// Where the shop's page is.
    pub(super) page: &'a str,
    pub(super) score: &'a Score,
    pub(super) state: &'a State,
}

/// Shows how the demo goes.
pub(super) enum Board {
    /// Redraws a table in place.
    Live { colour: bool, drawn: usize },
    /// Prints a line when something happens, to stdout or, while stdout is kept for the result, to stderr.
    Plain { aside: bool },
}

impl Board {
    pub(super) fn new(terminal: Terminal, json: bool) -> Self {
        if terminal.live && !json {
            Self::Live { colour: terminal.colour, drawn: 0 }
        } else {
            Self::Plain { aside: json }
        }
    }

    /// Whether it wants [`Board::draw`] to be called often.
    pub(super) const fn is_live(&self) -> bool {
        matches!(self, Self::Live { .. })
    }

    /// Draws the table over the one before.
    pub(super) fn draw(&mut self, view: &View<'_>) -> Result<(), Failure> {
        let Self::Live { colour, drawn } = self else { return Ok(()) };
        let lines = table(view, *colour);
        // Hide the cursor while it would flicker; go up to the first line; clear what a longer line left. Lines are cut off
        // in a narrow terminal, since one that wraps would be two to go up over.
        let mut text = String::from("\x1b[?25l\x1b[?7l");
        if *drawn > 0 {
            text.push_str(&format!("\x1b[{drawn}F"));
        }
        for line in &lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[?7h\x1b[?25h");
        *drawn = lines.len();
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Unheard)
    }

    /// Takes the table away, so that something else can stand in its place.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        let Self::Live { drawn, .. } = self else { return Ok(()) };
        let mut out = io::stdout().lock();
        if std::mem::take(drawn) > 0 {
            write!(out, "\x1b[{drawn}F\x1b[J").map_err(Failure::Unheard)?;
        }
        out.flush().map_err(Failure::Unheard)
    }

    /// Says a line, unless the table says it.
    pub(super) fn say(&self, line: &str) -> Result<(), Failure> {
        match self {
            Self::Live { .. } => Ok(()),
            Self::Plain { aside: false } => out::line(line),
            Self::Plain { aside: true } => out::aside(line),
        }
    }
}

/// What a plain line says when a phase begins.
pub(super) fn begins(phase: &Phase) -> String {
    format!("{:>6.1} s  {:<14}{}", phase.from.as_secs_f64(), phase.name(), story(phase))
}

fn story(phase: &Phase) -> String {
    match phase.failure {
        Some((fault, target)) => format!("{target}: {}", fault.how()),
        None => "nothing is wrong".to_owned(),
    }
}

fn table(view: &View<'_>, colour: bool) -> Vec<String> {
    let mut lines = vec![String::new()];
    let right = format!("seed {} · {} calls/s each way", view.seed, view.rate);
    let title = Ink::Strong.on(colour, "seaworthy demo");
    lines
        .push(format!("  {title}{}", Ink::Quiet.on(colour, &format!("{right:>width$}", width = WIDTH - 16))));
    lines.push(format!("  {}", progress(view, colour)));
    lines.push(String::new());
    let ink = if view.phase.failure.is_some() { Ink::Warn } else { Ink::Good };
    lines.push(format!(
        "  {}{}",
        ink.on(colour, &format!("{:<NAME$}", view.phase.name())),
        story(view.phase)
    ));
    lines.push(String::new());
    let (straight, through) = ("straight to the services", "through Seaworthy");
    let heading = format!("  {:<NAME$}{straight:>WAY$}{through:>WAY$}", "");
    lines.push(Ink::Strong.on(colour, &heading));
    let columns = format!("{:>9}{:>8}{:>8}", "success", "p50", "p99");
    let columns = format!("  {:<NAME$}{columns}{columns}   near    far   calls to far", "the last 2 s");
    lines.push(Ink::Quiet.on(colour, &columns));
    for (service, name) in SERVICES.iter().enumerate() {
        let (near, far) = view.state.breakers[service].split_at(NEAR_INSTANCES);
        let (near, far) = (breakers(near, colour), breakers(far, colour));
        let share = to_far(view.state.lately.of(&[service]).far_share, colour);
        lines.push(format!("{}   {near}   {far}   {share}", row(view, name, service, Kind::Read, colour)));
    }
    lines.push(row(view, "orders placed", super::children::ORDERS, Kind::Order, colour));
    lines.push(String::new());
    lines.extend(counters(view.state, colour));
    lines.push(String::new());
    let far = format!("the far region is {} ms away", DISTANCE.as_millis());
    let legend = format!("  breakers: ● closed  ◐ recovering  ○ open     {far}");
    let end = "Ctrl-C ends the demo";
    let room = WIDTH - legend.chars().count();
    lines.push(Ink::Quiet.on(colour, &format!("{legend}{end:>room$}")));
    lines.push(format!(
        "  {} {}",
        Ink::Quiet.on(colour, "the shop's page, to look at meanwhile:"),
        view.page
    ));
    lines
}

fn progress(view: &View<'_>, colour: bool) -> String {
    let share = (view.now.as_secs_f64() / view.total.as_secs_f64()).clamp(0.0, 1.0);
    let time = format!("{:>6.1} of {} s", view.now.min(view.total).as_secs_f64(), view.total.as_secs());
    let room = WIDTH - 2 - time.chars().count();
    let full = (share * room as f64) as usize;
    format!("{}{}{time}", "━".repeat(full), Ink::Quiet.on(colour, &"─".repeat(room - full)))
}

fn row(view: &View<'_>, name: &str, service: usize, kind: Kind, colour: bool) -> String {
    let mut line = format!("  {name:<NAME$}");
    for way in Way::BOTH {
        let tally = view.score.lately(view.now, LATELY, service, kind, way);
        line.push_str(&success(&tally, 9, colour));
        line.push_str(&format!(
            "{:>8}{:>8}",
            millis(tally.quantile_ms(0.5)),
            millis(tally.quantile_ms(0.99))
        ));
    }
    line
}

/// The success rate, in the colour of what it means.
pub(super) fn success(tally: &Tally, width: usize, colour: bool) -> String {
    let rate = tally.success_rate();
    let text = format!("{:>width$}", percent(rate));
    match rate {
        Some(rate) if rate >= 0.999 => Ink::Good.on(colour, &text),
        Some(rate) if rate >= 0.99 => Ink::Warn.on(colour, &text),
        Some(_) => Ink::Bad.on(colour, &text),
        None => Ink::Quiet.on(colour, &text),
    }
}

fn breakers(states: &[Option<Breaker>], colour: bool) -> String {
    let dots: Vec<String> = states
        .iter()
        .map(|state| match state {
            Some(Breaker::Closed) => Ink::Good.on(colour, "●"),
            Some(Breaker::Recovering) => Ink::Warn.on(colour, "◐"),
            Some(Breaker::Open) => Ink::Bad.on(colour, "○"),
            None => Ink::Quiet.on(colour, NOTHING),
        })
        .collect();
    dots.join(" ")
}

/// Which share of the calls goes to the far region, drawn and written.
fn to_far(share: Option<f64>, colour: bool) -> String {
    let full = share.map_or(0, |share| (share * BAR as f64).ceil() as usize).min(BAR);
    let (bar, rest) = ("━".repeat(full), "─".repeat(BAR - full));
    format!("{}{}{:>5}", Ink::Warn.on(colour, &bar), Ink::Quiet.on(colour, &rest), rough_percent(share))
}

fn counters(state: &State, colour: bool) -> [String; 2] {
    let c = &state.books.counters;
    let per_call = c.attempts_per_call().map_or_else(|| NOTHING.to_owned(), |rate| format!("{rate:.2}"));
    let quiet = |text: &str| Ink::Quiet.on(colour, text);
    let cell = |name: &str, value: String| format!("{} {value:<8}", quiet(&format!("{name:<14}")));
    let first = [
        cell("attempts/call", per_call),
        cell("retries", c.retries.to_string()),
        cell("hedges", c.hedges.to_string()),
    ];
    let second = [
        cell("timeouts", c.timeouts.to_string()),
        cell("breaker opened", c.breaker_opened.to_string()),
        cell("degraded", c.instead.sum().to_string()),
    ];
    [format!("  {}", first.join("   ")), format!("  {}", second.join("   "))]
}

/// The table's width in columns, its margin included.
const WIDTH: usize = 2 + NAME + 2 * WAY + 17 + BAR + 5;
/// The width of the first column.
const NAME: usize = 16;
/// The width of what is said about one way.
const WAY: usize = 25;
/// The width of the drawn share.
const BAR: usize = 8;

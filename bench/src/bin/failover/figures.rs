//! What the calls of a run amount to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Call;

/// Something that happened to an instance.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    pub(crate) name: &'static str,
    /// From the beginning of the load.
    pub(crate) at: Duration,
}

/// What the callers of one proxy saw.
pub(crate) struct Run {
    proxy: &'static str,
    /// Before anything happened.
    steady: Latency,
    /// Calls that failed before anything happened.
    errors_before: BTreeMap<String, usize>,
    aftermaths: Vec<Aftermath>,
    /// Second by second, from the beginning.
    seconds: Vec<Latency>,
}

/// Latencies in milliseconds. A failed call counts with the time until it failed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Latency {
    p50: f64,
    p99: f64,
    slowest: f64,
}

/// What an event met and what followed it, until the next one.
struct Aftermath {
    event: Event,
    /// Failed calls by what the caller saw.
    errors: BTreeMap<String, usize>,
    /// Of the calls due in each of the first seconds.
    seconds: Vec<Latency>,
    /// See [`back`].
    back: Option<Duration>,
    /// In milliseconds.
    slowest: f64,
}

impl Run {
    pub(crate) fn new(
        proxy: &'static str,
        calls: Vec<Call>,
        events: &[Event],
        steady_from: Duration,
        end: Duration,
    ) -> Self {
        let first = events.first().map_or(end, |event| event.at);
        let steady = latency(between(&calls, steady_from, first));
        // What an event meets under way is its own: almost every call that was due so shortly before it.
        let under_way = Duration::try_from_secs_f64(steady.p99 / 1e3).unwrap_or_default();
        let ends = events.iter().skip(1).map(|event| event.at.saturating_sub(under_way)).chain([end]);
        let aftermaths = events.iter().zip(ends).map(|(event, end)| {
            let met = between(&calls, event.at.saturating_sub(under_way), end);
            Aftermath {
                event: *event,
                errors: errors(met),
                seconds: seconds(&calls, event.at, event.at + SECOND * SHOWN),
                back: back(&calls, event.at, end, steady.p99 * WITHIN),
                slowest: latency(met).slowest,
            }
        });
        Self {
            proxy,
            steady,
            errors_before: errors(between(&calls, Duration::ZERO, first.saturating_sub(under_way))),
            aftermaths: aftermaths.collect(),
            seconds: seconds(&calls, Duration::ZERO, end),
        }
    }

    pub(crate) fn as_json(&self) -> Value {
        let seconds = |seconds: &[Latency]| seconds.iter().map(Latency::as_json).collect::<Vec<_>>();
        let each = self.aftermaths.iter().map(|after| {
            json!({ "event": after.event.name, "at_s": after.event.at.as_secs_f64(), "errors": after.errors,
                    "seconds_after": seconds(&after.seconds), "slowest_ms": after.slowest,
                    "back_after_s": after.back.map(|back| back.as_secs_f64()) })
        });
        json!({ "proxy": self.proxy, "steady": self.steady.as_json(), "errors_before": self.errors_before,
                "events": each.collect::<Vec<_>>(), "seconds": seconds(&self.seconds) })
    }
}

impl Latency {
    fn as_json(&self) -> Value {
        json!({ "p50_ms": self.p50, "p99_ms": self.p99, "slowest_ms": self.slowest })
    }
}

/// Everything in Markdown, as it stands in bench/README.md.
pub(crate) fn table(runs: &[Run]) -> String {
    let mut table = String::from(
        "| proxy | steady p50 / p99 ms | event | errors | p99 ms of each of the 5 seconds after | back after | slowest ms |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let steady = format!("{:.1} / {:.1}", run.steady.p50, run.steady.p99);
        let before = spelled(&run.errors_before);
        if before != "0" {
            // Writing to a String can't fail.
            let _infallible = writeln!(table, "| {} | {steady} | none yet | {before} | | | |", run.proxy);
        }
        for after in &run.aftermaths {
            let p99s: Vec<String> = after.seconds.iter().map(|second| rounded(second.p99)).collect();
            let back = after.back.map_or("never".to_owned(), |back| format!("{:.1} s", back.as_secs_f64()));
            let _infallible = writeln!(
                table,
                "| {} | {steady} | {} | {} | {} | {back} | {} |",
                run.proxy,
                after.event.name,
                spelled(&after.errors),
                p99s.join(", "),
                rounded(after.slowest),
            );
        }
    }
    table
}

/// Three digits are as many as a second run confirms.
fn rounded(milliseconds: f64) -> String {
    if milliseconds < 100.0 { format!("{milliseconds:.1}") } else { format!("{milliseconds:.0}") }
}

fn spelled(errors: &BTreeMap<String, usize>) -> String {
    let all: usize = errors.values().sum();
    let each: Vec<String> = errors.iter().map(|(what, count)| format!("{count} x {what}")).collect();
    if all == 0 { "0".to_owned() } else { format!("{all} ({})", each.join(", ")) }
}

/// How long after `from` the p99 of a second's calls came within `limit` to stay there for [`STAYS`] (or until `end`, if
/// that is sooner): the beginning of the first of these seconds, in steps of [`STEP`].
fn back(calls: &[Call], from: Duration, end: Duration, limit: f64) -> Option<Duration> {
    let begins = |from: Duration| {
        let begins = (0..).map(move |step| from + STEP * step);
        begins.take_while(move |begin| *begin + SECOND <= end)
    };
    let is_within = |begin: Duration| latency(between(calls, begin, begin + SECOND)).p99 <= limit;
    let stays = |begin: &Duration| begins(*begin).take_while(|later| *later < *begin + STAYS).all(is_within);
    begins(from).find(stays).map(|begin| begin - from)
}

fn seconds(calls: &[Call], from: Duration, end: Duration) -> Vec<Latency> {
    let begins = (0..).map(|second| from + SECOND * second).take_while(|begin| *begin < end);
    begins.map(|begin| latency(between(calls, begin, begin + SECOND))).collect()
}

/// The calls due from `from` until before `end`.
fn between(calls: &[Call], from: Duration, end: Duration) -> &[Call] {
    let first = calls.partition_point(|call| call.due < from);
    let last = calls.partition_point(|call| call.due < end);
    &calls[first..last.max(first)]
}

fn errors(calls: &[Call]) -> BTreeMap<String, usize> {
    let mut errors = BTreeMap::new();
    for fault in calls.iter().filter_map(|call| call.fault.clone()) {
        *errors.entry(fault).or_default() += 1;
    }
    errors
}

fn latency(calls: &[Call]) -> Latency {
    let mut sorted: Vec<f64> = calls.iter().map(|call| call.took.as_secs_f64() * 1e3).collect();
    sorted.sort_by(f64::total_cmp);
    // The smallest figure that so many of the calls stayed within; with no calls there is none.
    let at = |share: usize| {
        let rank = (sorted.len() * share).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    };
    Latency { p50: at(50), p99: at(99), slowest: at(100) }
}

const SECOND: Duration = Duration::from_secs(1);

/// Seconds after an event that the table shows one by one.
const SHOWN: u32 = 5;

/// How many times the steady p99 still counts as normal.
const WITHIN: f64 = 2.0;

/// Back means to stay: long enough to notice calls that hang until a timeout of five seconds.
const STAYS: Duration = Duration::from_secs(5);

/// How exactly the return is told.
const STEP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// 500 calls a second for `seconds`; how long each takes tells `took`, in milliseconds by the due time in milliseconds.
    fn calls(seconds: u64, took: impl Fn(u64) -> u64) -> Vec<Call> {
        let due = (0..seconds * 500).map(|number| number * 2);
        due.map(|due| Call {
            due: Duration::from_millis(due),
            took: Duration::from_millis(took(due)),
            fault: None,
        })
        .collect()
    }

    #[test]
    fn a_percentile_is_a_call_that_there_was() {
        let mut hundred = calls(1, |_| 1);
        hundred.truncate(100);
        hundred[7].took = Duration::from_millis(9);
        assert_eq!(latency(&hundred), Latency { p50: 1.0, p99: 1.0, slowest: 9.0 });
        hundred[8].took = Duration::from_millis(8);
        assert_eq!(latency(&hundred), Latency { p50: 1.0, p99: 8.0, slowest: 9.0 });
    }

    #[test]
    fn back_is_when_it_stays_back() {
        let seconds = |seconds| Duration::from_secs(seconds);
        let stall = calls(20, |due| if (5_000..5_700).contains(&due) { 50 } else { 3 });
        assert_eq!(back(&stall, seconds(5), seconds(20), 6.0), Some(Duration::from_millis(700)));
        let twice = calls(20, |due| if due < 1_000 || (4_000..4_100).contains(&due) { 50 } else { 3 });
        assert_eq!(back(&twice, seconds(0), seconds(20), 6.0), Some(Duration::from_millis(4_100)));
        assert_eq!(back(&calls(20, |_| 50), seconds(0), seconds(20), 6.0), None);
        assert_eq!(back(&calls(20, |_| 3), seconds(0), seconds(20), 6.0), Some(Duration::ZERO));
    }

    #[test]
    fn a_call_belongs_to_the_event_that_it_met_or_that_was_before_it() {
        let mut run = calls(20, |due| if due == 14_998 { 5_000 } else { 3 });
        run[20 * 250].fault = Some("status 502".to_owned());
        let at = |seconds| Event { name: "x", at: Duration::from_secs(seconds) };
        let run = Run::new("p", run, &[at(5), at(15)], Duration::from_secs(1), Duration::from_secs(20));
        let errors: Vec<String> = run.aftermaths.iter().map(|after| spelled(&after.errors)).collect();
        assert_eq!(
            (errors, run.errors_before.len()),
            (vec!["1 (1 x status 502)".to_owned(), "0".to_owned()], 0)
        );
    }
}

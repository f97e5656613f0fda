use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::call::{self, Action, Commons, Event, Kind, Plan, Repeat, Start, budget, hedge, retry};
use crate::gate::breaker;
use crate::{Failure, Instant, Mode, Outcome, Pushback, Rejection, Rng, Seeded};

/// A call that meets failures, hedges, refusals and impatient callers as `seed` has it.
fn recorded_call(id: u64, seed: u64) -> String {
    let mut rng = Seeded::new(seed);
    let config = call::Config {
        retry: retry::Config { attempts: 1 + rng.below(4) as u8, ..retry::Config::default() },
        hedge: hedge::Config { mode: Mode::Enforce, ..hedge::Config::default() },
        budget: budget::Config { burst: 1 + rng.below(3) as u32, ..budget::Config::default() },
        fallback: rng.below(2) == 0,
        ..call::Config::default()
    };
    let config = Valid::new(config).unwrap();
    let mut shared = Commons::new(config);
    let mut now = Instant::from_millis(rng.below(1_000_000));
    for _ in 0..rng.below(60) {
        call::Shared::observe(&mut shared, now, call::Sample::Took(Duration::from_millis(20)));
    }
    let start = Start { deadline: Some(now.plus(Duration::from_secs(2))), repeat: Repeat::Safe, seed };
    let mut call =
        RecordedCall::start(Plan::new(&config), now, start, &mut shared, Some(Tape::call(id, &config)));
    for _ in 0..200 {
        match call.next_action(now, &mut shared) {
            Action::Finish(_) => return call.take(),
            Action::Wait(until) => {
                let attempt = call.attempts();
                match rng.below(6) {
                    0 => call.on_event(now, Event::Head { attempt, outcome: Outcome::Success }, &mut shared),
                    1 => call.on_event(now, event_of(&mut rng, attempt), &mut shared),
                    _ => now = until.unwrap_or(now),
                }
            }
            Action::Send { attempt, kind: Kind::Hedge, .. } => {
                call.on_event(now, Event::Refused { attempt, rejection: refusal() }, &mut shared);
            }
            _ => now = now.plus(Duration::from_millis(rng.below(10))),
        }
    }
    panic!("a call that does not end, seed {seed}");
}

fn event_of(rng: &mut Seeded, attempt: u8) -> Event {
    let after = Pushback::After(Duration::from_millis(3));
    match rng.below(6) {
        0 => Event::CallerGone,
        1 => Event::CannotRepeat,
        2 => Event::Head { attempt, outcome: Outcome::Overloaded(after) },
        3 => Event::Head { attempt, outcome: Outcome::Failure(Failure::Error, Pushback::Never) },
        _ => Event::Ended { attempt, outcome: Outcome::failed(Failure::Broken) },
    }
}

fn refusal() -> Rejection {
    Rejection::new(crate::Policy::Breaker, crate::Reason::Open).after(Duration::from_secs(1))
}

fn recording(seeds: core::ops::Range<u64>) -> String {
    let tapes: String = seeds.map(|seed| recorded_call(seed, seed)).collect();
    format!("{HEADER}\n{tapes}")
}

#[test]
fn what_was_recorded_replays() {
    let replayed = replay(&recording(0..300)).unwrap();
    assert_eq!(replayed.calls, 300);
    assert!(replayed.decisions > 3_000, "{replayed:?}");
}

#[test]
fn recordings_can_be_joined_and_commented() {
    let twice = format!("{}\n# and again\n{}", recording(0..2), recording(0..2));
    assert_eq!(replay(&twice).unwrap().calls, 4);
}

#[test]
fn a_decision_that_was_changed_added_or_taken_out_is_detected() {
    let whole = recording(0..20);
    let lines: Vec<&str> = whole.lines().collect();
    let decisions = (0..lines.len()).filter(|&n| lines[n].contains(" < "));
    for n in decisions {
        let changed =
            format!("{} <{}0", lines[n].split(" <").next().unwrap(), &lines[n].split(" <").last().unwrap());
        for with in [vec![changed.as_str()], vec![], vec![lines[n], lines[n]]] {
            let mut tampered = lines.clone();
            tampered.splice(n..=n, with);
            let error = replay(&tampered.join("\n")).unwrap_err();
            let ReplayError::Mismatch { line, .. } = error else { panic!("{error}") };
            assert!(line >= n, "line {line} is told of, line {} was changed", n + 1);
        }
    }
}

#[test]
fn errors_name_the_line() {
    let cases = [
        ("", "begins with \"\""),
        ("seaworthy-record 2\n", "begins with \"seaworthy-record 2\""),
        ("seaworthy-record 1\n\nhello\n", "line 3 is only"),
        ("seaworthy-record 1\nkettle 1 a=b\n", "line 2 introduces an unknown machine"),
        ("seaworthy-record 1\n7 > next 3\n", "line 2 is of machine 7"),
        ("seaworthy-record 1\ncall 1 deadline=soon\n", "line 2 has \"soon\" as its deadline"),
    ];
    for (text, begin) in cases {
        let error = format!("{}", replay(text).unwrap_err());
        assert!(error.contains(begin), "{text:?}: {error}");
    }
    let config = Valid::new(call::Config::default()).unwrap();
    let impossible =
        format!("{HEADER}\n{}", Tape::call(1, &config).take().replace("attempts=3", "attempts=0"));
    let error = format!("{}", replay(&impossible).unwrap_err());
    assert!(error.starts_with("line 2 has a configuration that can't be: attempts is 0"), "{error}");
}

#[test]
fn an_untaped_call_records_nothing() {
    let config = Valid::new(call::Config::default()).unwrap();
    let mut shared = Commons::new(config);
    let mut call =
        RecordedCall::start(Plan::new(&config), Instant::ZERO, Start::default(), &mut shared, None);
    assert!(matches!(call.next_action(Instant::ZERO, &mut shared), Action::Send { .. }));
    assert!(call.take().is_empty());
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}") {
        let _ = replay(&text);
        let _ = replay(&format!("{HEADER}\n{text}"));
    }

    #[test]
    fn a_recording_with_words_exchanged_never_panics(
        seed in 0u64..50, cuts in proptest::collection::vec((0usize..10_000, 0usize..10_000), 1..8),
    ) {
        let whole = recording(seed..seed + 2) + &recorded_breaker(1_000, seed);
        let mut words: Vec<&str> = whole.split(' ').collect();
        for (a, b) in cuts {
            let (a, b) = (a % words.len(), b % words.len());
            words.swap(a, b);
        }
        let _ = replay(&words.join(" "));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = replay(&text);
        let _ = replay(&format!("{HEADER}\ncall 1 {text}"));
    }
}

/// A breaker that sees every kind of input, as `seed` has it.
fn recorded_breaker(id: u64, seed: u64) -> String {
    let mut rng = Seeded::new(seed);
    let config = breaker::Config {
        mode: if rng.below(4) == 0 { Mode::Observe } else { Mode::Enforce },
        window: if rng.below(2) == 0 {
            breaker::Window::Count(30)
        } else {
            breaker::Config::default().window
        },
        open_for: Duration::from_millis(300),
        ramp: Duration::from_millis(rng.below(2) * 500),
        ..breaker::Config::default()
    };
    let mut breaker = RecordedBreaker::new(Valid::new(config).unwrap(), seed, Some(id));
    let mut now = Instant::from_millis(1_000);
    let mut tickets = Vec::new();
    let mut text = String::new();
    for step in 0..300 {
        now = now.plus(Duration::from_millis(rng.below(40)));
        match rng.below(12) {
            0..=4 => tickets.extend(breaker.admit(now).ok()),
            5 => breaker.fold(now, rng.below(4) as u32),
            6 if !tickets.is_empty() => drop(breaker.overdue(now, &mut tickets[0])),
            7 if step % 50 == 0 => drop(breaker.force(now, Some(breaker::Force::Open))),
            8 => drop(breaker.force(now, None)),
            9 if step % 20 == 10 => {
                let bound = (rng.below(2) == 0).then_some(Duration::from_millis(20));
                let _ = breaker.trip(now, breaker::Cause::LatencyOutlier, bound);
            }
            9 if step % 20 == 0 => breaker.reconfigure(Valid::new(config).unwrap()),
            _ if !tickets.is_empty() => {
                let ticket = tickets.swap_remove(rng.below(tickets.len() as u64) as usize);
                let good = now.as_nanos() % 2_000_000_000 < 1_000_000_000;
                let outcome = if good { Outcome::Success } else { Outcome::failed(Failure::Error) };
                let _ = breaker.settle(now, ticket, outcome);
            }
            _ => {}
        }
        text.push_str(&breaker.take());
    }
    text
}

#[test]
fn what_was_recorded_of_breakers_replays() {
    let text: String = (0..100).map(|seed| recorded_breaker(seed, seed)).collect();
    let replayed = replay(&format!("{HEADER}\n{text}")).unwrap();
    assert_eq!((replayed.calls, replayed.gates), (0, 100));
    for (what, least) in [
        ("< rejected", 1_000),
        ("< change closed open", 100),
        ("< change half_open", 50),
        (" true ", 10),
        ("open latency_outlier", 20),
    ] {
        assert!(text.matches(what).count() >= least, "{what}: {}", text.matches(what).count());
    }
}

#[test]
fn a_decision_of_a_breaker_that_was_changed_is_detected() {
    let text: String = (0..20).map(|seed| recorded_breaker(seed, seed)).collect();
    for (was, is) in [("< change closed open", "< change closed half_open"), ("< rejected ", "< ticket 1 ")] {
        let error = replay(&format!("{HEADER}\n{}", text.replacen(was, is, 1))).unwrap_err();
        assert!(matches!(error, ReplayError::Mismatch { .. }), "{error}");
    }
}

#[test]
fn another_seed_is_another_breaker() {
    let text = recorded_breaker(1, 3);
    assert!(replay(&format!("{HEADER}\n{}", text.replace("seed=3", "seed=4"))).is_err());
}

#[test]
fn a_window_that_no_memory_holds_is_refused() {
    let mut breaker = RecordedBreaker::new(Valid::default(), 1, Some(1));
    let header = breaker.take().replace("window=time:10000000000", "window=count:4000000000");
    let error = replay(&format!("{HEADER}\n{header}")).unwrap_err();
    assert!(matches!(error, ReplayError::Malformed { line: 2, .. }), "{error}");
}

//! The properties that hold whatever happens to a call, and the sentences that it must obey.

use alloc::string::ToString;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::call::{Commons, Learned, hedge, retry, timeout};

const MS: u64 = 1_000_000;

/// A [`Shared`] with counted tokens and fixed knowledge, so that a test sees every debit.
#[derive(Clone, Default)]
struct Fixed {
    learned: Learned,
    tokens: u32,
    withdrawn: u32,
    refunded: u32,
    samples: Vec<Sample>,
}

impl Shared for Fixed {
    fn learned(&mut self, _now: Instant) -> Learned {
        self.learned
    }

    fn observe(&mut self, _now: Instant, sample: Sample) {
        self.samples.push(sample);
    }

    fn deposit(&mut self, _now: Instant) {}

    fn withdraw(&mut self, _now: Instant, _extra: Extra) -> bool {
        let granted = self.tokens > self.withdrawn - self.refunded;
        self.withdrawn += u32::from(granted);
        granted
    }

    fn refund(&mut self, _now: Instant, _extra: Extra) {
        self.refunded += 1;
    }
}

fn known(timeout_ms: u64, hedge_ms: Option<u64>, typical_ms: u64) -> Fixed {
    let ms = Duration::from_millis;
    let learned = Learned {
        timeout: Some(ms(timeout_ms)),
        hedge_after: hedge_ms.map(ms),
        late: Some(ms(timeout_ms / 2)),
        typical: Some(ms(typical_ms)),
    };
    Fixed { learned, tokens: 100, ..Fixed::default() }
}

fn config() -> Config {
    Config {
        deadline: Some(Duration::from_millis(1_000)),
        retry: retry::Config { jitter: retry::Jitter::None, ..retry::Config::default() },
        hedge: hedge::Config { mode: Mode::Enforce, ..hedge::Config::default() },
        ..Config::default()
    }
}

fn begin(config: Config, shared: &mut Fixed) -> Call {
    let start = Start { repeat: Repeat::Safe, ..Start::default() };
    Call::start(Plan::new(&Valid::new(config).unwrap()), Instant::ZERO, start, shared)
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

const ERROR: Outcome = Outcome::failed(Failure::Error);

/// All actions at `now` up to the first `Wait` or `Finish`.
fn actions(call: &mut Call, now: Instant, shared: &mut Fixed) -> Vec<Action> {
    let mut all = Vec::new();
    loop {
        let action = call.next_action(now, shared);
        all.push(action);
        if matches!(action, Action::Wait(_) | Action::Finish(_)) {
            return all;
        }
    }
}

#[test]
fn a_good_answer_ends_the_call_and_leaves_no_record() {
    let mut shared = known(100, None, 10);
    let mut call = begin(config(), &mut shared);
    let sent = actions(&mut call, at(0), &mut shared);
    let send = Action::Send { attempt: 1, kind: Kind::First, due: Some(at(100)) };
    assert_eq!(sent, [send, Action::Wait(Some(at(100)))]);
    call.on_event(at(7), Event::Head { attempt: 1, outcome: Outcome::Success }, &mut shared);
    let finish = Finish::Answer { attempt: 1, outcome: Outcome::Success };
    assert_eq!(actions(&mut call, at(7), &mut shared), [Action::Finish(finish)]);
    assert_eq!(shared.samples, [Sample::Took(Duration::from_millis(7))]);
    assert!(call.why().is_empty());
}

#[test]
fn a_slow_attempt_is_hedged_and_the_loser_cancelled() {
    let mut shared = known(100, Some(20), 10);
    let mut call = begin(config(), &mut shared);
    assert_eq!(actions(&mut call, at(0), &mut shared).last(), Some(&Action::Wait(Some(at(20)))));
    assert_eq!(actions(&mut call, at(19), &mut shared), [Action::Wait(Some(at(20)))]);
    let hedged = actions(&mut call, at(20), &mut shared);
    assert_eq!(hedged[0], Action::Send { attempt: 2, kind: Kind::Hedge, due: Some(at(120)) });
    call.on_event(at(25), Event::Head { attempt: 2, outcome: Outcome::Success }, &mut shared);
    let finish = Finish::Answer { attempt: 2, outcome: Outcome::Success };
    let lost = Action::Cancel { attempt: 1, why: CancelWhy::LostTheRace };
    assert_eq!(actions(&mut call, at(25), &mut shared), [lost, Action::Finish(finish)]);
    assert!(shared.samples.contains(&Sample::Above(Duration::from_millis(25))));
    assert_eq!(shared.withdrawn, 1);
    insta::assert_snapshot!(call.why(), @"+20ms attempt 2 is a hedge; +25ms attempt 1 lost the race");
}

/// failsafe-go#141: an exhausted budget failed a call whose first attempt was still on its way.
#[test]
fn a_spent_budget_does_not_fail_the_attempt_in_flight() {
    let mut shared = known(100, Some(20), 10);
    shared.tokens = 0;
    let mut call = begin(config(), &mut shared);
    actions(&mut call, at(0), &mut shared);
    assert_eq!(actions(&mut call, at(20), &mut shared), [Action::Wait(Some(at(100)))]);
    call.on_event(at(30), Event::Head { attempt: 1, outcome: Outcome::Success }, &mut shared);
    let finish = Finish::Answer { attempt: 1, outcome: Outcome::Success };
    assert_eq!(actions(&mut call, at(30), &mut shared), [Action::Finish(finish)]);
}

#[test]
fn a_failure_beside_a_hedge_waits_for_the_hedge() {
    let mut shared = known(100, Some(20), 10);
    let mut call = begin(config(), &mut shared);
    actions(&mut call, at(0), &mut shared);
    actions(&mut call, at(20), &mut shared);
    call.on_event(at(22), Event::Head { attempt: 1, outcome: ERROR }, &mut shared);
    assert_eq!(actions(&mut call, at(22), &mut shared), [Action::Wait(Some(at(120)))]);
    call.on_event(at(30), Event::Head { attempt: 2, outcome: Outcome::Success }, &mut shared);
    let superseded = Action::Cancel { attempt: 1, why: CancelWhy::Superseded };
    let finish = Finish::Answer { attempt: 2, outcome: Outcome::Success };
    assert_eq!(actions(&mut call, at(30), &mut shared), [superseded, Action::Finish(finish)]);
}

#[test]
fn a_timed_out_attempt_is_cancelled_and_retried() {
    let mut shared = known(100, None, 10);
    let mut call = begin(config(), &mut shared);
    actions(&mut call, at(0), &mut shared);
    assert_eq!(
        actions(&mut call, at(0).plus_nanos(100 * MS - 1), &mut shared),
        [Action::Wait(Some(at(100)))],
        "not a nanosecond early"
    );
    let cancel = Action::Cancel { attempt: 1, why: CancelWhy::TimedOut };
    assert_eq!(actions(&mut call, at(100), &mut shared), [cancel, Action::Wait(Some(at(125)))]);
    let retry = Action::Send { attempt: 2, kind: Kind::Retry, due: Some(at(225)) };
    assert_eq!(actions(&mut call, at(125), &mut shared)[0], retry);
    assert_eq!(shared.samples, [Sample::Above(Duration::from_millis(100))]);
}

#[test]
fn the_last_failure_is_the_answer_when_attempts_are_spent() {
    let mut shared = known(100, None, 1);
    let mut call = begin(config(), &mut shared);
    let mut now = at(0);
    for attempt in 1..=3 {
        now = now.plus(Duration::from_millis(200));
        actions(&mut call, now, &mut shared);
        call.on_event(now, Event::Head { attempt, outcome: ERROR }, &mut shared);
    }
    let finish = Finish::Answer { attempt: 3, outcome: ERROR };
    assert_eq!(actions(&mut call, now, &mut shared).last(), Some(&Action::Finish(finish)));
    assert!(call.why().to_string().ends_with("attempt 3 is not retried: all attempts were made"));
}

#[test]
fn what_may_not_run_twice_is_repeated_only_if_it_was_not_sent() {
    for (failure, retried) in
        [(Failure::Connect, true), (Failure::Unprocessed, true), (Failure::Broken, false)]
    {
        let mut shared = known(100, Some(20), 1);
        let plan = Plan::new(&Valid::new(config()).unwrap());
        let mut call = Call::start(plan, at(0), Start::default(), &mut shared);
        assert_eq!(
            actions(&mut call, at(0), &mut shared).last(),
            Some(&Action::Wait(Some(at(1_000)))),
            "no hedge"
        );
        call.on_event(at(1), Event::Ended { attempt: 1, outcome: Outcome::failed(failure) }, &mut shared);
        let next = call.next_action(at(1), &mut shared);
        assert_eq!(matches!(next, Action::Wait(_)), retried, "{failure:?}: {next:?}");
    }
}

#[test]
fn a_body_that_was_not_kept_is_not_sent_again() {
    let mut shared = known(100, None, 1);
    let mut call = begin(config(), &mut shared);
    actions(&mut call, at(0), &mut shared);
    call.on_event(at(1), Event::CannotRepeat, &mut shared);
    // Not even if it never arrived: there is nothing left to send.
    let outcome = Outcome::failed(Failure::Connect);
    call.on_event(at(2), Event::Ended { attempt: 1, outcome }, &mut shared);
    let finish = Finish::Failed { attempt: 1, outcome };
    assert_eq!(actions(&mut call, at(2), &mut shared), [Action::Finish(finish)]);
    assert!(call.why().to_string().ends_with("the request's body was too large to keep"));
}

/// A learned timeout says when another attempt is worth more than waiting on. Where there can be none, it would only turn a slow
/// answer into no answer.
#[test]
fn an_attempt_that_none_can_follow_has_until_the_ceiling() {
    let ceiling = timeout::Config { ceiling: Duration::from_millis(700), ..timeout::Config::default() };
    let due = |config: Config, repeat, tries: u8| {
        let mut shared = known(100, None, 1);
        let plan = Plan::new(&Valid::new(Config { timeout: ceiling, deadline: None, ..config }).unwrap());
        let mut call = Call::start(plan, at(0), Start { repeat, ..Start::default() }, &mut shared);
        let mut now = at(0);
        for attempt in 1..tries {
            actions(&mut call, now, &mut shared);
            call.on_event(now, Event::Head { attempt, outcome: ERROR }, &mut shared);
            now = now.plus(Duration::from_millis(50));
        }
        match actions(&mut call, now, &mut shared).pop() {
            Some(Action::Wait(Some(until))) => until.since(now).as_millis(),
            other => panic!("{other:?}"),
        }
    };
    let once = retry::Config { attempts: 1, ..config().retry };
    assert_eq!(due(config(), Repeat::Safe, 1), 100);
    assert_eq!(due(config(), Repeat::Safe, 2), 100);
    assert_eq!(due(config(), Repeat::Safe, 3), 700, "the last one");
    assert_eq!(due(config(), Repeat::Never, 1), 700, "the only one");
    assert_eq!(
        due(Config { retry: once, ..config() }, Repeat::Safe, 1),
        100,
        "without retries it is a plain timeout"
    );
}

#[test]
fn a_request_that_can_no_longer_be_repeated_is_given_the_time_of_one_that_cannot() {
    let mut shared = known(100, None, 1);
    let mut call = begin(Config { deadline: None, ..config() }, &mut shared);
    assert_eq!(actions(&mut call, at(0), &mut shared).last(), Some(&Action::Wait(Some(at(100)))));
    call.on_event(at(10), Event::CannotRepeat, &mut shared);
    assert_eq!(actions(&mut call, at(10), &mut shared), [Action::Wait(Some(at(30_000)))]);
}

#[test]
fn an_upload_takes_as_long_as_it_moves() {
    let mut shared = known(100, Some(20), 1);
    let mut call = begin(config(), &mut shared);
    actions(&mut call, at(0), &mut shared);
    for ms in (15..=300).step_by(15) {
        call.on_event(at(ms), Event::Progress, &mut shared);
        assert_eq!(
            actions(&mut call, at(ms), &mut shared),
            [Action::Wait(Some(at(ms + 20)))],
            "the hedge waits too"
        );
    }
    call.on_event(at(310), Event::Head { attempt: 1, outcome: Outcome::Success }, &mut shared);
    assert_eq!(
        shared.samples,
        [Sample::Took(Duration::from_millis(10))],
        "the upload is not the upstream's latency"
    );
}

#[test]
fn an_upload_that_stops_moving_is_cut_off() {
    let mut shared = known(100, None, 1);
    let mut call = begin(config(), &mut shared);
    actions(&mut call, at(0), &mut shared);
    call.on_event(at(50), Event::Progress, &mut shared);
    assert_eq!(actions(&mut call, at(149), &mut shared), [Action::Wait(Some(at(150)))]);
    let cancel = Action::Cancel { attempt: 1, why: CancelWhy::TimedOut };
    assert_eq!(actions(&mut call, at(150), &mut shared)[0], cancel);
}

#[test]
fn a_retry_that_the_deadline_cannot_fit_is_not_made() {
    // The wait is 25 ms and the typical call takes 50: it fits up to 925 ms, and not a nanosecond later.
    for (when, fits) in [(925 * MS, true), (925 * MS + 1, false)] {
        let mut shared = known(2_000, None, 50);
        let mut call = begin(config(), &mut shared);
        actions(&mut call, at(0), &mut shared);
        let now = Instant::from_nanos(when);
        call.on_event(now, Event::Head { attempt: 1, outcome: ERROR }, &mut shared);
        let last = actions(&mut call, now, &mut shared).pop();
        assert_eq!(matches!(last, Some(Action::Wait(_))), fits, "{last:?}");
    }
}

#[test]
fn push_back_is_obeyed_and_clamped() {
    let asked = |pushback| {
        let mut shared = known(100, None, 1);
        let mut call = begin(Config { deadline: None, ..config() }, &mut shared);
        actions(&mut call, at(0), &mut shared);
        call.on_event(at(0), Event::Head { attempt: 1, outcome: Outcome::Overloaded(pushback) }, &mut shared);
        *actions(&mut call, at(0), &mut shared).last().unwrap()
    };
    let after = |ms| Pushback::After(Duration::from_millis(ms));
    assert_eq!(asked(after(300)), Action::Wait(Some(at(300))));
    assert_eq!(asked(after(3_600_000)), Action::Wait(Some(at(5_025))), "five seconds past its own wait");
    assert_eq!(asked(after(1)), Action::Wait(Some(at(25))), "not before its own wait");
    assert!(matches!(asked(Pushback::Never), Action::Finish(Finish::Answer { attempt: 1, .. })));
}

#[test]
fn a_refused_retry_gives_its_token_back() {
    let mut shared = known(100, None, 1);
    let mut call = begin(config(), &mut shared);
    actions(&mut call, at(0), &mut shared);
    call.on_event(at(1), Event::Ended { attempt: 1, outcome: ERROR }, &mut shared);
    actions(&mut call, at(26), &mut shared);
    let rejection = Rejection::new(Policy::Breaker, Reason::Open);
    call.on_event(at(26), Event::Refused { attempt: 2, rejection }, &mut shared);
    let finish = Action::Finish(Finish::Rejected(rejection));
    assert_eq!(actions(&mut call, at(26), &mut shared), [finish]);
    assert_eq!((shared.withdrawn, shared.refunded), (1, 1));
}

#[test]
fn the_deadline_ends_everything_and_blames_only_the_late() {
    for (deadline, why) in [(200, CancelWhy::DeadlinePassed), (199, CancelWhy::DeadlineShort)] {
        let mut shared = known(400, None, 1);
        let plan = Plan::new(&Valid::new(config()).unwrap());
        let start = Start { deadline: Some(at(deadline)), ..Start::default() };
        let mut call = Call::start(plan, at(0), start, &mut shared);
        actions(&mut call, at(0), &mut shared);
        let failed = Finish::Failed { attempt: 1, outcome: Outcome::failed(Failure::Timeout) };
        let ends = actions(&mut call, at(deadline), &mut shared);
        assert_eq!(ends, [Action::Cancel { attempt: 1, why }, Action::Finish(failed)]);
    }
}

#[test]
fn a_caller_in_a_hurry_blames_nobody_before_anything_is_known() {
    // The shortest timeout is 200 ms.
    for (deadline, why) in [(200, CancelWhy::DeadlinePassed), (199, CancelWhy::DeadlineShort)] {
        let mut shared = Fixed { tokens: 100, ..Fixed::default() };
        let plan = Plan::new(&Valid::new(config()).unwrap());
        let start = Start { deadline: Some(at(deadline)), ..Start::default() };
        let mut call = Call::start(plan, at(0), start, &mut shared);
        actions(&mut call, at(0), &mut shared);
        assert_eq!(actions(&mut call, at(deadline), &mut shared)[0], Action::Cancel { attempt: 1, why });
    }
}

#[test]
fn who_leaves_an_attempt_that_is_late_gave_up_on_it() {
    for (left, why) in [(200, CancelWhy::GivenUp), (199, CancelWhy::CallerGone)] {
        let mut shared = known(400, None, 1);
        let mut call = begin(config(), &mut shared);
        actions(&mut call, at(0), &mut shared);
        call.on_event(at(left), Event::CallerGone, &mut shared);
        let ends = actions(&mut call, at(left), &mut shared);
        assert_eq!(ends, [Action::Cancel { attempt: 1, why }, Action::Finish(Finish::Gone)]);
    }
}

/// What hangs makes what is late unknown, and callers that set a deadline leave a moment before it is over here.
#[test]
fn before_anything_is_known_only_who_leaves_at_its_deadline_gave_up() {
    let cases = [
        (1_000, 900, CancelWhy::GivenUp),
        (1_000, 899, CancelWhy::CallerGone),
        // The shortest timeout is 200 ms.
        (200, 199, CancelWhy::CallerGone),
    ];
    for (deadline, left, why) in cases {
        let mut shared = Fixed { tokens: 100, ..Fixed::default() };
        let plan = Plan::new(&Valid::new(config()).unwrap());
        let start = Start { deadline: Some(at(deadline)), ..Start::default() };
        let mut call = Call::start(plan, at(0), start, &mut shared);
        actions(&mut call, at(0), &mut shared);
        call.on_event(at(left), Event::CallerGone, &mut shared);
        assert_eq!(actions(&mut call, at(left), &mut shared)[0], Action::Cancel { attempt: 1, why });
    }
}

#[test]
fn a_deadline_that_has_passed_sends_nothing() {
    let mut shared = known(100, None, 1);
    let plan = Plan::new(&Valid::new(config()).unwrap());
    let start = Start { deadline: Some(at(5)), ..Start::default() };
    let mut call = Call::start(plan, at(5), start, &mut shared);
    let rejection = Rejection::new(Policy::Deadline, Reason::DeadlinePassed);
    assert_eq!(call.next_action(at(5), &mut shared), Action::Finish(Finish::Rejected(rejection)));
}

#[test]
fn the_fallback_answers_for_failures_and_not_for_the_caller_s_mistakes() {
    for (outcome, falls_back) in [(ERROR, true), (Outcome::Success, false), (Outcome::Ignored, false)] {
        let mut shared = known(100, None, 1);
        let retry = retry::Config { attempts: 1, ..retry::Config::default() };
        let mut call = begin(Config { fallback: true, retry, ..config() }, &mut shared);
        actions(&mut call, at(0), &mut shared);
        call.on_event(at(1), Event::Head { attempt: 1, outcome }, &mut shared);
        let last = actions(&mut call, at(1), &mut shared).pop();
        assert_eq!(last == Some(Action::Finish(Finish::Fallback)), falls_back, "{outcome:?}");
    }
}

#[test]
fn observe_only_notes_and_does_nothing() {
    let mut shared = known(100, Some(20), 1);
    let config = Config {
        timeout: timeout::Config { mode: Mode::Observe, ..timeout::Config::default() },
        retry: retry::Config { mode: Mode::Observe, jitter: retry::Jitter::None, ..retry::Config::default() },
        hedge: hedge::Config { mode: Mode::Observe, ..hedge::Config::default() },
        ..config()
    };
    let mut call = begin(config, &mut shared);
    for ms in [0, 20, 100] {
        assert!(matches!(actions(&mut call, at(ms), &mut shared).last(), Some(Action::Wait(_))));
    }
    call.on_event(at(150), Event::Head { attempt: 1, outcome: ERROR }, &mut shared);
    let finish = Finish::Answer { attempt: 1, outcome: ERROR };
    assert_eq!(actions(&mut call, at(150), &mut shared), [Action::Finish(finish)]);
    assert_eq!(shared.withdrawn, 2, "a budget tells what it would grant only if what it grants is taken");
    insta::assert_snapshot!(call.why(), @"+20ms attempt 1 would be hedged; +100ms attempt 1 would time out after 100ms; +150ms attempt 1 was answered with an error; +150ms attempt 1 would be retried in 25ms");
}

#[test]
fn observe_only_tells_of_no_more_than_the_budget_grants() {
    let mut shared = Fixed { tokens: 0, ..known(100, Some(20), 1) };
    let config = Config {
        retry: retry::Config { mode: Mode::Observe, ..retry::Config::default() },
        hedge: hedge::Config { mode: Mode::Observe, ..hedge::Config::default() },
        ..config()
    };
    let mut call = begin(config, &mut shared);
    actions(&mut call, at(0), &mut shared);
    actions(&mut call, at(20), &mut shared);
    call.on_event(at(50), Event::Head { attempt: 1, outcome: ERROR }, &mut shared);
    let told: Vec<_> = call.why().notes().iter().map(|note| note.what).collect();
    let error = What::Failed(Failure::Error);
    let (hedge, retry) = (What::NotHedged(Reason::BudgetSpent), What::NotRetried(Reason::BudgetSpent));
    assert_eq!(told, [hedge, error, retry]);
}

/// It goes to the upstream in a header, which would cut off by itself what is only to be watched.
#[test]
fn a_timeout_in_observe_only_mode_is_not_announced() {
    let mut shared = known(100, None, 1);
    let timeout = timeout::Config { mode: Mode::Observe, ..timeout::Config::default() };
    let mut call = begin(Config { timeout, ..config() }, &mut shared);
    let send = Action::Send { attempt: 1, kind: Kind::First, due: Some(at(1_000)) };
    assert_eq!(actions(&mut call, at(0), &mut shared), [send, Action::Wait(Some(at(100)))]);
}

#[test]
fn the_deadline_does_not_blame_a_hedge_that_has_just_left() {
    let mut shared = known(800, Some(390), 1);
    let mut call = begin(Config { deadline: Some(Duration::from_millis(400)), ..config() }, &mut shared);
    actions(&mut call, at(0), &mut shared);
    actions(&mut call, at(390), &mut shared);
    let mut ends = actions(&mut call, at(400), &mut shared);
    ends.pop();
    let late = Action::Cancel { attempt: 1, why: CancelWhy::DeadlinePassed };
    let young = Action::Cancel { attempt: 2, why: CancelWhy::DeadlineShort };
    assert_eq!(ends, [young, late]);
}

/// A driver that keeps no copy of what must not run twice says so, and that is not the reason.
#[test]
fn what_may_not_run_twice_is_not_blamed_on_its_size() {
    let mut shared = known(100, None, 1);
    let plan = Plan::new(&Valid::new(config()).unwrap());
    let mut call = Call::start(plan, at(0), Start::default(), &mut shared);
    actions(&mut call, at(0), &mut shared);
    call.on_event(at(0), Event::CannotRepeat, &mut shared);
    call.on_event(at(1), Event::Head { attempt: 1, outcome: ERROR }, &mut shared);
    let last = call.why().notes().last().map(|note| note.what);
    assert_eq!(last, Some(What::NotRetried(Reason::NotRepeatable)));
}

/// The place of an attempt that ended is taken by a later one, so the last place need not hold the last attempt.
#[test]
fn the_slow_attempt_that_a_note_names_is_the_latest() {
    let mut shared = Fixed { tokens: 2, ..known(400, Some(20), 1) };
    let hedge = hedge::Config { mode: Mode::Enforce, most: 3, ..hedge::Config::default() };
    let mut call = begin(Config { hedge, ..config() }, &mut shared);
    actions(&mut call, at(0), &mut shared);
    actions(&mut call, at(20), &mut shared);
    call.on_event(at(30), Event::Head { attempt: 1, outcome: ERROR }, &mut shared);
    actions(&mut call, at(40), &mut shared);
    actions(&mut call, at(60), &mut shared);
    let last = call.why().notes().last().copied().unwrap();
    assert_eq!((last.attempt, last.what), (3, What::NotHedged(Reason::BudgetSpent)));
}

/// The commons of a whole upstream under load: what is granted stays within what was earned.
#[test]
fn retries_through_the_commons_stay_within_the_budget() {
    let config = Valid::new(Config {
        budget: crate::call::budget::Config { share: 0.1, per_second: 0.0, burst: 5 },
        ..config()
    })
    .unwrap();
    let mut shared = Commons::new(config);
    let mut sent = 0;
    for n in 0..1_000 {
        let now = at(n);
        let start = Start { repeat: Repeat::Safe, seed: n, ..Start::default() };
        let mut call = Call::start(Plan::new(&config), now, start, &mut shared);
        let mut now = now;
        loop {
            match call.next_action(now, &mut shared) {
                Action::Send { attempt, .. } => {
                    sent += 1;
                    call.on_event(now, Event::Head { attempt, outcome: ERROR }, &mut shared);
                }
                Action::Wait(Some(until)) => now = until,
                Action::Finish(_) => break,
                _ => {}
            }
        }
    }
    assert!((1_100..=1_105).contains(&sent), "{sent}");
}

// Whatever happens.

#[derive(Clone, Debug)]
enum Step {
    Head(u8, u8),
    Ended(u8, u8),
    Refused(u8),
    CannotRepeat,
    Progress,
    CallerGone,
    Pass(u64),
    Back(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..12, 0u8..7).prop_map(|(a, o)| Step::Head(a, o)),
        2 => (1u8..12, 0u8..7).prop_map(|(a, o)| Step::Ended(a, o)),
        1 => (1u8..12).prop_map(Step::Refused),
        1 => Just(Step::CannotRepeat),
        1 => Just(Step::Progress),
        1 => Just(Step::CallerGone),
        8 => (0u64..120_000_000).prop_map(Step::Pass),
        1 => (0u64..120_000_000).prop_map(Step::Back),
    ]
}

fn outcome(n: u8) -> Outcome {
    match n {
        0 => Outcome::Success,
        1 => Outcome::Ignored,
        2 => Outcome::Overloaded(Pushback::Never),
        3 => Outcome::Overloaded(Pushback::After(Duration::from_millis(40))),
        4 => Outcome::failed(Failure::Connect),
        5 => Outcome::failed(Failure::Broken),
        _ => ERROR,
    }
}

/// What the driver holds of each attempt.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Held {
    InFlight,
    Answer,
    Nothing,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn one_finish_and_every_attempt_ends_once(
        steps in proptest::collection::vec(step(), 0..60),
        repeat in prop_oneof![Just(Repeat::Safe), Just(Repeat::Keyed), Just(Repeat::Never)],
        attempts in 1u8..=5, hedges in 1u8..=3, tokens in 0u32..6, seed: u64,
        deadline in proptest::option::of(1u64..2_000), has_fallback: bool,
    ) {
        let config = Config {
            deadline: deadline.map(Duration::from_millis),
            retry: retry::Config { attempts, ..retry::Config::default() },
            hedge: hedge::Config { mode: Mode::Enforce, most: hedges, ..hedge::Config::default() },
            fallback: has_fallback,
            ..Config::default()
        };
        let mut shared = Fixed { tokens, ..known(100, Some(20), 10) };
        let plan = Plan::new(&Valid::new(config).unwrap());
        let mut call = Call::start(plan, Instant::ZERO, Start { repeat, seed, deadline: None }, &mut shared);
        let (mut held, mut now, mut gone) = (Vec::<Held>::new(), Instant::ZERO, false);
        let (mut extras, mut refused, mut finish) = (0u32, 0u32, None);
        // Time passes at the end, so that every timed exit is taken.
        let passes = (0..400).map(|_| Step::Pass(100_000_000));
        for step in steps.into_iter().chain(passes) {
            match step {
                Step::Pass(by) => now = now.plus_nanos(by),
                Step::Back(by) => now = Instant::from_nanos(now.as_nanos().saturating_sub(by)),
                Step::Progress => call.on_event(now, Event::Progress, &mut shared),
                Step::CannotRepeat => call.on_event(now, Event::CannotRepeat, &mut shared),
                Step::CallerGone => {
                    gone = finish.is_none();
                    call.on_event(now, Event::CallerGone, &mut shared);
                }
                Step::Head(attempt, n) => {
                    if let Some(h) = held.get_mut(usize::from(attempt) - 1).filter(|h| **h == Held::InFlight) {
                        *h = Held::Answer;
                    }
                    call.on_event(now, Event::Head { attempt, outcome: outcome(n) }, &mut shared);
                }
                Step::Ended(attempt, n) => {
                    // An attempt whose answer is held has ended already.
                    let Some(h) = held.get_mut(usize::from(attempt) - 1).filter(|h| **h == Held::InFlight) else { continue };
                    *h = Held::Nothing;
                    call.on_event(now, Event::Ended { attempt, outcome: outcome(n.max(2)) }, &mut shared);
                }
                Step::Refused(attempt) => {
                    let Some(h) = held.get_mut(usize::from(attempt) - 1).filter(|h| **h == Held::InFlight) else { continue };
                    *h = Held::Nothing;
                    refused += u32::from(finish.is_none() && attempt > 1);
                    let rejection = Rejection::new(Policy::Breaker, Reason::Open);
                    call.on_event(now, Event::Refused { attempt, rejection }, &mut shared);
                }
            }
            loop {
                match call.next_action(now, &mut shared) {
                    Action::Send { attempt, kind, due } => {
                        prop_assert!(!gone && finish.is_none(), "sent after the end");
                        prop_assert_eq!(usize::from(attempt), held.len() + 1);
                        prop_assert!(call.deadline().is_none_or(|d| now < d), "sent past the deadline");
                        prop_assert!(due.is_none_or(|due| call.deadline().is_none_or(|d| due <= d)));
                        prop_assert!(kind == Kind::First || attempt > 1);
                        extras += u32::from(kind != Kind::First);
                        held.push(Held::InFlight);
                        prop_assert!(held.iter().filter(|h| **h == Held::InFlight).count() <= 4);
                        prop_assert!(held.len() <= usize::from(attempts + hedges));
                    }
                    Action::Cancel { attempt, .. } => {
                        let h = &mut held[usize::from(attempt) - 1];
                        prop_assert!(*h != Held::Nothing, "attempt {} ended twice", attempt);
                        *h = Held::Nothing;
                    }
                    Action::Wait(until) => {
                        prop_assert!(finish.is_none());
                        prop_assert!(until.is_none_or(|u| u > now), "a wait that is over");
                        break;
                    }
                    Action::Finish(end) => {
                        prop_assert!(finish.is_none_or(|f| f == end));
                        if let Finish::Answer { attempt, .. } = end {
                            prop_assert_eq!(held[usize::from(attempt) - 1], Held::Answer);
                        }
                        finish = Some(end);
                        break;
                    }
                }
            }
            prop_assert_eq!(shared.withdrawn - shared.refunded <= tokens, true);
            if let Some(end) = finish {
                let answer = if let Finish::Answer { attempt, .. } = end { Some(attempt) } else { None };
                for (n, h) in held.iter().enumerate() {
                    prop_assert!(*h == Held::Nothing || answer == Some(n as u8 + 1), "attempt {} leaks", n + 1);
                }
                prop_assert!(!gone || end == Finish::Gone);
                prop_assert_eq!(shared.withdrawn - shared.refunded, extras - refused, "a token a sent extra attempt");
                return Ok(());
            }
        }
        prop_assert!(false, "it never finished");
    }
}

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

const KEY: u64 = 7;

fn settings(mode: Mode, shared: Option<WhenDown>) -> Settings {
    let hour = Duration::from_secs(3600);
    let rate = rate::Config { mode, calls: 1, per: hour, burst: 2, ..rate::Config::default() };
    Settings { rate: Valid::new(rate).unwrap(), by: RateBy::Client, shared }
}

/// Asks without anything that could wake the question: whatever waits fails the test.
fn at_once(meter: &Meter) -> Result<Option<Reason>, Reason> {
    let admitting = pin!(meter.admit(None, clock::now(), KEY));
    match admitting.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(admitted) => admitted.map(|shadow| shadow.map(|r| r.reason)).map_err(|r| r.reason),
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn a_local_rate_answers_at_once() {
    let meter = Meter::new("all", settings(Mode::Enforce, None));
    let answers = [(); 3].map(|()| at_once(&meter));
    assert_eq!(answers, [Ok(None), Ok(None), Err(Reason::RateExceeded)]);
    assert_eq!(meter.counts(), Counts { asked: 0, refused: 1, down: 0 });
    assert_eq!(meter.own(clock::now()).keys, 1);
}

#[test]
fn one_that_only_observes_tells_what_it_would_refuse() {
    let meter = Meter::new("all", settings(Mode::Observe, None));
    let answers = [(); 3].map(|()| at_once(&meter));
    assert_eq!(answers, [Ok(None), Ok(None), Ok(Some(Reason::RateExceeded))]);
    assert_eq!(meter.counts().refused, 1);
}

#[test]
fn the_mode_changes_while_it_runs() {
    let meter = Meter::new("all", settings(Mode::Off, None));
    assert_eq!([(); 3].map(|()| at_once(&meter)), [Ok(None); 3]);
    for (mode, third) in [(Mode::Enforce, Err(Reason::RateExceeded)), (Mode::Off, Ok(None))] {
        meter.set_mode(mode);
        assert_eq!(meter.mode(), mode);
        assert_eq!([(); 3].map(|()| at_once(&meter))[2], third);
    }
}

#[test]
fn a_shared_rate_without_a_store_is_decided_as_it_says() {
    let refused = Err(Reason::RateExceeded);
    for (when_down, answers) in [
        (WhenDown::Local, [Ok(None), Ok(None), refused]),
        (WhenDown::Allow, [Ok(None); 3]),
        (WhenDown::Refuse, [Err(Reason::StoreDown); 3]),
    ] {
        let meter = Meter::new("all", settings(Mode::Enforce, Some(when_down)));
        assert_eq!([(); 3].map(|()| at_once(&meter)), answers, "{when_down:?}");
        assert_eq!((meter.counts().asked, meter.counts().down), (3, 3));
    }
}

#[test]
fn clients_have_their_own_rate_unless_all_share_it() {
    for (by, second) in [(RateBy::Client, Ok(None)), (RateBy::All, Err(Reason::RateExceeded))] {
        let meter = Meter::new("all", Settings { by, ..settings(Mode::Enforce, None) });
        assert_eq!([(); 2].map(|()| at_once(&meter)), [Ok(None); 2]);
        let other = pin!(meter.admit(None, clock::now(), KEY + 1));
        let Poll::Ready(other) = other.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it waits")
        };
        assert_eq!(other.map_err(|rejection| rejection.reason), second, "{by:?}");
    }
}

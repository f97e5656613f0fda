//! An upstream that can do so much a second and no more, a real proxy before it, and calls that come whether it can or not.
//!
//! What is counted is compared with the capacity, which the upstream keeps to exactly. Seconds in which the machine stood still (the calls
//! themselves were sent late) say nothing about the proxy and are left out; there must be enough others.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::time::Duration;

use common::capacity::load::{ALIKE, Arrivals, Call, Class, Load, Plan};
use common::capacity::server::{Capacity, Server};
use common::capacity::tally::Tally;
use common::shop::Proxy;

const SECOND: Duration = Duration::from_secs(1);

/// 200 calls a second: ten times that is what a debug build and its load carry on two cores with room to spare.
const CAPACITY: Capacity = Capacity { workers: 20, service: Duration::from_millis(100) };

/// How long a caller waits: three times as long as a call takes.
const DEADLINE: Duration = Duration::from_millis(300);

/// A limit a little above the workers, so that none of them waits for the next call to arrive, and a queue whose last call can still be
/// answered in time: 150 ms there, and 120 ms for 24 calls with 20 workers.
const LIMITED: &str = "[upstream.shop.limit]\nmax_in_flight = 24\n[upstream.shop.limit.queue]\nsize = 100\nmax_wait = \"150ms\"\n";

/// What is not tested here: its queue would be a second one.
const OTHERWISE: &str = "[upstream.shop.bulkhead]\nmode = \"off\"\n";

/// A proxy before `server`; `more` follows what all of them have.
/// It lowers no limits when the host is short of processor time: that comes from whoever builds beside the test, not from the calls.
fn proxy(name: &str, server: &Server, deadline: Duration, more: &str) -> Proxy {
    let toml = format!(
        "[log]\naccess = false\n[pressure]\nmode = \"off\"\n[upstream.shop]\nendpoints = \"http://{}\"\ndeadline = \"{}ms\"\n{OTHERWISE}{more}",
        server.address(),
        deadline.as_millis(),
    );
    Proxy::start(name, &toml)
}

fn plan(proxy: &Proxy, times: f64, lasts: Duration) -> Plan {
    Plan {
        to: proxy.address,
        per_second: times * CAPACITY.per_second(),
        lasts,
        deadline: DEADLINE,
        arrivals: Arrivals::Poisson,
        classes: vec![ALIKE],
        seed: 7,
    }
}

/// The seconds from 1 to `until` in which the machine kept up, each with its calls; the first is theirs to settle in.
fn seconds(calls: &[Call], until: u32) -> Vec<(u32, Tally)> {
    let tally = |from, until| Tally::between(calls, SECOND * from, SECOND * until);
    // Half a service time: later than that, and the deadline is not the one that was meant. What stood still in the second before comes at once in
    // this one.
    let kept_up = |n: &u32| tally(n - 1, n + 1).stood_still() < CAPACITY.service / 2;
    (1..until).filter(kept_up).map(|n| (n, tally(n, n + 1))).collect()
}

/// The same of the first of three loads during which the machine kept up in half of them: what a busy machine did says nothing.
fn undisturbed(until: u32, load: impl Fn() -> Vec<Call>) -> Vec<(u32, Tally)> {
    for _ in 0..3 {
        let kept_up = seconds(&load(), until);
        if kept_up.len() as u32 >= until.div_ceil(2) - 1 {
            return kept_up;
        }
        eprintln!("  the machine stood still in all seconds but {}", kept_up.len());
    }
    panic!("the machine stood still, three times over");
}

/// The mean goodput of these seconds, as a share of the capacity.
fn of_capacity(seconds: &[(u32, Tally)]) -> f64 {
    let good: f64 = seconds.iter().map(|(_, tally)| tally.goodput()).sum();
    good / seconds.len() as f64 / CAPACITY.per_second()
}

/// Puts `times` the capacity on a fresh upstream behind a fresh proxy for seven seconds, and returns the calls.
fn overload(name: &str, times: f64) -> Vec<Call> {
    let server = Server::start(CAPACITY).unwrap();
    let proxy = proxy(name, &server, DEADLINE, LIMITED);
    let calls = Load::start(plan(&proxy, times, 7 * SECOND)).unwrap().finish();
    eprintln!("{times} times the capacity: {}", Tally::between(&calls, SECOND, 7 * SECOND));
    eprintln!("  {:?}", server.counts());
    calls
}

#[test]
fn goodput_stays_at_the_capacity_however_much_more_is_asked() {
    for (name, times) in [("1.5", 1.5), ("2", 2.0), ("5", 5.0), ("10", 10.0)] {
        let kept_up = undisturbed(7, || overload(&format!("overload-{name}.toml"), times));
        let share = of_capacity(&kept_up);
        assert!(share >= 0.95, "at {times} times the capacity {share:.3} of it are answered well");
        for (second, tally) in kept_up {
            let p99 = tally.quantile(0.99).unwrap();
            assert!(p99 < DEADLINE, "p99 in second {second} at {times} times the capacity is {p99:?}");
        }
    }
}

#[test]
fn below_the_capacity_hardly_anybody_is_refused() {
    // Calls come by chance, so that now and then more come together than can be answered in time.
    let kept_up = undisturbed(7, || overload("overload-0.9.toml", 0.9));
    let (good, offered) =
        kept_up.iter().fold((0, 0), |sum, (_, tally)| (sum.0 + tally.good(), sum.1 + tally.offered()));
    assert!(good as f64 >= 0.99 * offered as f64, "{good} of {offered}");
}

#[test]
fn the_sheddable_carry_the_loss() {
    let class = |share, criticality| Class { share, criticality: Some(criticality), client: None };
    // The critical ask for 0.8 of the capacity, the others for 1.2.
    let classes = vec![
        class(0.1, "critical-plus"),
        class(0.3, "critical"),
        class(0.2, "sheddable-plus"),
        class(0.4, "sheddable"),
    ];
    let kept_up = undisturbed(11, || {
        let server = Server::start(CAPACITY).unwrap();
        let proxy = proxy("criticality.toml", &server, DEADLINE, LIMITED);
        let load = Plan { classes: classes.clone(), ..plan(&proxy, 2.0, 11 * SECOND) };
        Load::start(load).unwrap().finish()
    });
    let success = |class: usize| {
        let of_class = kept_up.iter().map(|(_, tally)| tally.of_class(class));
        let (good, offered) =
            of_class.fold((0, 0), |sum, tally| (sum.0 + tally.good(), sum.1 + tally.offered()));
        good as f64 / offered as f64
    };
    for (number, class) in classes.iter().enumerate() {
        eprintln!("{}: {:.2}% succeed", class.criticality.unwrap(), 100.0 * success(number));
    }
    // By the route they are critical, and a client may say less, not more: the first two are one.
    assert!(success(0) >= 0.994 && success(1) >= 0.994, "{} and {}", success(0), success(1));
    assert!(success(3) < success(2), "the least important are shed first");
    let share = of_capacity(&kept_up);
    assert!(share >= 0.95, "{share:.3} of the capacity");
}

/// Half a minute of CI is too much for a whole minute's outage: there it lasts six seconds. `SEAWORTHY_LONG_OUTAGE=1` makes it the full minute.
fn outage() -> Duration {
    if std::env::var_os("SEAWORTHY_LONG_OUTAGE").is_some() { 60 * SECOND } else { 6 * SECOND }
}

/// An upstream that hangs for as long as `outage()` says at 0.8 of its capacity, and is then well again at once, behind a proxy that retries.
/// Returns the share of calls that were answered well before and in each of the nine seconds after, and how many the upstream was left with.
fn hangs_and_is_repaired(name: &str, more: &str) -> (f64, Vec<f64>, u64) {
    let server = Server::start(CAPACITY).unwrap();
    let toml =
        format!("{more}[upstream.shop.breaker]\nopen_for = \"1s\"\nopen_at_most = \"2s\"\nramp = \"1s\"\n");
    let proxy = proxy(name, &server, DEADLINE, &toml);
    let (hangs, lasts) = (3 * SECOND, outage());
    let load = Load::start(plan(&proxy, 0.8, hangs + lasts + 10 * SECOND)).unwrap();
    load.wait_until(hangs);
    server.pause();
    load.wait_until(hangs + lasts);
    let left_with = server.counts().waiting;
    server.serve();
    let repaired = load.now();
    let calls = load.finish();
    let share = |from, until| {
        let tally = Tally::between(&calls, from, until);
        tally.share(tally.good())
    };
    let after = (0..9).map(|n| share(repaired + SECOND * n, repaired + SECOND * (n + 1))).collect();
    eprintln!("{name}: {after:.2?} in each second after the repair, {:?}", server.counts());
    (share(SECOND, hangs), after, left_with)
}

#[test]
fn an_outage_ends_with_its_repair() {
    let (before, after, left_with) = hangs_and_is_repaired("outage.toml", LIMITED);
    assert!(before >= 0.98, "{before}");
    // Callers left all of these, and the upstream works them off first. That their callers left must not hide from the breaker that it hangs.
    assert!((left_with as f64) < CAPACITY.per_second(), "{left_with} calls are to be worked on in vain");
    // Whatever second the machine stood still in, the goodput is back five seconds after and stays.
    let mut late: Vec<f64> = after[5..].to_vec();
    late.sort_unstable_by(f64::total_cmp);
    assert!(late[late.len() / 2] >= 0.98, "{after:?}");
}

use seaworthy_core::call::{budget, hedge, retry, timeout};
use seaworthy_core::gate::rate;

use super::*;

/// Does not compile once the core has a field that is not listed here, and then it wants a line in a table above too.
#[test]
fn every_field_of_the_core_has_a_setting() {
    let Policies { call, breaker, limit, bulkhead, outlier, balance, timing, .. } = Policies::default();
    let call::Config { deadline: _, timeout, retry, budget, hedge, fallback: _ } = call;
    let timeout::Config {
        mode: _,
        fixed: _,
        quantile: _,
        multiplier: _,
        floor: _,
        ceiling: _,
        initial: _,
        minimum_samples: _,
        window: _,
    } = timeout;
    let retry::Config { mode: _, attempts: _, base: _, cap: _, jitter: _, most_pushback: _ } = retry;
    let budget::Config { share: _, per_second: _, burst: _ } = budget;
    let hedge::Config { mode: _, quantile: _, floor: _, most: _, budget: _ } = hedge;
    let breaker::Config {
        mode: _,
        consecutive_failures: _,
        failure_rate: _,
        slow_after: _,
        slow_rate: _,
        window: _,
        minimum_calls: _,
        hung_after: _,
        open_for: _,
        open_growth: _,
        open_at_most: _,
        jitter: _,
        probes: _,
        successes_to_close: _,
        ramp: _,
    } = breaker;
    let limit::Config {
        mode: _,
        algorithm: _,
        max_in_flight: _,
        min_in_flight: _,
        initial: _,
        slow_after: _,
        baseline_window: _,
    } = limit;
    let bulkhead::Config { mode: _, concurrency: _, queue: _, max_wait: _ } = bulkhead;
    let outlier::Config {
        mode: _,
        window: _,
        minimum_failures: _,
        error_excess: _,
        slow_factor: _,
        slow_floor: _,
        minimum_calls: _,
        max_ejected: _,
    } = outlier;
    let balance::Config {
        algorithm: _,
        panic_threshold: _,
        overprovision: _,
        slow_start: _,
        locality: _,
        load_bound: _,
    } = balance;
    let health::Config { interval: _, unsure_interval: _, jitter: _, timeout: _, up: _, down: _ } = timing;
    let fields: Vec<usize> = POLICIES.tables.iter().map(|table| table.fields.len()).collect();
    let names = "timeout, breaker, retry, budget, hedge, limit, throttle, bulkhead, balance, check, outlier, discovery";
    assert_eq!(fields, [9, 15, 6, 3, 4, 8, 5, 4, 7, 14, 8, 4], "{names}");
}

/// Likewise, for what holds calls back.
#[test]
fn every_field_of_what_holds_back_has_a_setting() {
    let Policies { queue, throttle, .. } = Policies::default();
    let queue::Config { mode: _, size: _, max_wait: _, overload_after: _ } = queue;
    let throttle::Config { mode: _, window: _, multiplier: _, most: _, probes_per_second: _ } = throttle;
    let Proxy { pressure, rating, .. } = Proxy::default();
    let pressure::Config {
        mode: _,
        cpu: _,
        cpu_stall: _,
        memory: _,
        memory_stall: _,
        descriptors: _,
        floor: _,
    } = pressure;
    let rate::Config { mode: _, calls: _, per: _, burst: _, keys: _ } = rating.rate;
    let tables = [&LISTENER_LIMIT, &LISTENER_RATE, &PRESSURE];
    assert_eq!(tables.map(|table| table.fields.len()), [7, 8, 7], "limit, rate, pressure");
    assert_eq!(LISTENER_LIMIT.tables[0].fields.len(), 4, "queue");
}

/// For each setting one that it takes and that is not its default.
const VALUES: [&str; 37] = [
    "\"2MiB\"",
    "\"sheddable\"",
    "\"aimd\"",
    "\"redis\"",
    "\"refuse\"",
    "\"all\"",
    "[\"static\"]",
    "\"redis://seven\"",
    "7",
    "207",
    "0.77",
    "\"77ms\"",
    "\"observe\"",
    "\"equal\"",
    "\"http2\"",
    "\"127.0.0.1:7\"",
    "\"least_requests\"",
    "\"grpc\"",
    "\"header:seven\"",
    "false",
    "\"/seven\"",
    "\"seven.example.com\"",
    "[\"seven\"]",
    "\"3s\"",
    "true",
    "\"1MiB\"",
    "\"text\"",
    "\"warn\"",
    "\"http\"",
    "{ SEVEN = \"7\" }",
    "\"seven\"",
    "\"always\"",
    "\"PUT\"",
    "\"begin-anew\"",
    "\"postgres://seven@seven/seven\"",
    "\"retry\"",
    "\"allow\"",
];

#[test]
fn every_setting_lives_in_a_place_of_its_own() {
    lives_alone(&PROXY);
    lives_alone(&POLICIES);
    lives_alone(&SUPERVISED);
    lives_alone(&ROUTING);
    lives_alone(&CLIENT);
}

/// Reading any value but its own into one setting leaves all others as they were.
fn lives_alone<C: Default + 'static>(table: &Table<C>) {
    let mut paths = Vec::new();
    table.each("", &mut |path, field| paths.push((path.to_owned(), field.slot)));
    let show = |settings: &C| paths.iter().map(|(_, slot)| slot.show(settings)).collect::<Vec<_>>();
    let before = show(&C::default());
    for (path, slot) in &paths {
        let after = VALUES.iter().map(|text| {
            let text = format!("v = {text}");
            let toml = toml::de::DeTable::parse(&text).unwrap();
            let mut settings = C::default();
            slot.read(&mut settings, &toml.get_ref()["v"], &mut Vec::new());
            show(&settings)
        });
        let after = after.into_iter().find(|after| *after != before);
        let after = after.unwrap_or_else(|| panic!("{path} takes none of the values"));
        let changed = paths.iter().zip(before.iter().zip(&after)).filter(|(_, (b, a))| b != a);
        let changed: Vec<&str> = changed.map(|((path, _), _)| path.as_str()).collect();
        assert_eq!(changed, [path.as_str()]);
    }
}

//! A service with many instances, of which some are ill, slow, far or gone.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use seaworthy_sim::{GroupRow, Report, Scenario, run};

/// A run of `text` with this seed.
fn play(text: &str, seed: u64) -> Report {
    let mut scenario = Scenario::parse(text, "topology").unwrap();
    scenario.seed = seed;
    run(&scenario)
}

/// Ten instances that answer in 20 ms, and one call in a thousand with an error.
fn ten(duration: &str, rate: f64, more: &str) -> String {
    format!(
        r#"
[simulation]
duration = "{duration}"
[clients]
rate = {rate}
[service]
instances = 10
latency = {{ median = "20ms", sigma = 0.5 }}
failures = 0.001
{more}
"#
    )
}

/// How often each instance was out.
fn outings(report: &Report) -> Vec<usize> {
    report.endpoints.iter().map(|endpoint| endpoint.outings.len()).collect()
}

#[test]
fn one_of_ten_that_fails_a_fifth_is_out_within_50_of_its_requests() {
    let ill = "[[service.change]]\nat = \"0s\"\ninstance = 4\nfailures = 0.2";
    let mut needed: Vec<u64> = (1..=20)
        .map(|seed| {
            let report = play(&ten("15s", 200.0, ill), seed);
            let outing = report.endpoints[3].outings.first();
            assert_eq!(outings(&report).iter().sum::<usize>(), outings(&report)[3], "seed {seed}: {report}");
            outing.map_or(u64::MAX, |outing| outing.attempts)
        })
        .collect();
    needed.sort_unstable();
    assert!(needed[10] <= 50, "{needed:?}");
}

#[test]
fn one_of_ten_that_is_ten_times_slower_is_left_alone_within_5_s_whoever_chooses() {
    for algorithm in ["peak_ewma", "least_requests", "round_robin", "consistent_hash"] {
        // The second change changes nothing; it only begins a phase.
        let more = format!(
            r#"
[[service.change]]
at = "10s"
instance = 4
slower = 10.0
[[service.change]]
at = "15s"
[upstream.service]
endpoints = "http://127.0.0.1:1"
balance.algorithm = "{algorithm}"
{}
"#,
            if algorithm == "consistent_hash" { "balance.hash_on = \"header:x-user\"" } else { "" }
        );
        let report = play(&ten("30s", 500.0, &more), 1);
        let share = |phase: usize| {
            let sent = report.phases[phase].attempts;
            report.endpoints[3].by_phase[phase] as f64 / sent as f64
        };
        assert!(share(0) > 0.05, "{algorithm}: {report}");
        assert!(share(2) < 0.02, "{algorithm}: {report}");
        assert_eq!(report.total.failed, 0, "{algorithm}: {report}");
    }
}

#[test]
fn nobody_is_out_in_ten_minutes_in_which_all_fail_one_in_a_hundred() {
    let text = ten("600s", 200.0, "").replace("failures = 0.001", "failures = 0.01");
    let report = play(&text, 1);
    assert_eq!(outings(&report), [0; 10], "{report}");
    assert!(report.total.calls > 100_000 && report.total.success > 0.9999, "{report}");
}

/// Three instances near, three far, which may have a hundred requests in flight; the near ones vanish for a minute.
const REGIONS: &str = r#"
region = "near"
[simulation]
duration = "240s"
[clients]
rate = 300.0
[[service.group]]
region = "near"
instances = 3
distance = "1ms"
[[service.group]]
region = "far"
instances = 3
distance = "60ms"
[service]
latency = { median = "10ms", sigma = 0.5 }
[[service.change]]
region = "near"
at = "60s"
lasts = "60s"
gone = true
[defaults]
deadline = "2s"
[upstream.service]
endpoints = "http://127.0.0.1:1"
limit.per_region = 100
bulkhead.concurrency = 400
timeout = { ceiling = "300ms", initial = "300ms" }
budget.burst = 500
"#;

fn share_of_near(report: &Report, seconds: std::ops::Range<usize>) -> f64 {
    report.groups[0].share_in(seconds, &report.groups)
}

#[test]
fn a_region_that_vanishes_costs_one_call_in_a_thousand_at_most_and_returns_gradually() {
    for seed in 1..=5 {
        let report = play(REGIONS, seed);
        let [near, far] = &report.groups[..] else { panic!("{report}") };
        assert!(report.phases[1].success >= 0.999, "seed {seed}: {report}");
        assert!(report.total.success >= 0.999, "seed {seed}: {report}");
        assert!(far.most_in_flight <= 100, "seed {seed}: {report}");
        assert!(share_of_near(&report, 0..60) > 0.999, "seed {seed}: {report}");
        assert!(share_of_near(&report, 70..120) < 0.02, "seed {seed}: {report}");
        assert!(share_of_near(&report, 220..240) > 0.99, "seed {seed}: {report}");
        returns_gradually(near, &report);
    }
}

/// Second by second the share grows, from the first probes to nearly everything in no less than four of them. What remains may
/// take long: an instance that missed its probe waits again.
fn returns_gradually(near: &GroupRow, report: &Report) {
    let share = |second: usize| near.share_in(second..second + 1, &report.groups);
    let shares: Vec<f64> = (120..240).map(share).collect();
    let first_above = |least: f64| shares.iter().position(|share| *share > least).unwrap();
    assert!(first_above(0.8) >= first_above(0.05) + 4, "{shares:?}");
    let mut most: f64 = 0.0;
    for (n, share) in shares.iter().enumerate() {
        // 300 calls a second: chance moves a share by three points.
        assert!(*share > most - 0.1 && *share < most + 0.35, "second {}: {shares:?}", 120 + n);
        most = most.max(*share);
    }
}

/// The far region can carry less than all that comes when the near one is gone.
#[test]
fn a_region_that_stands_in_is_not_drowned() {
    let report = play(&REGIONS.replace("per_region = 100", "per_region = 15"), 1);
    let far = &report.groups[1];
    assert_eq!(far.most_in_flight, 15, "{report}");
    // 300 calls a second of 70 ms each want 21 places. What is let in is answered, and what is not is told so at once.
    let outage = &report.phases[1];
    assert!((0.5..0.85).contains(&outage.success), "{report}");
    assert!(outage.rejected > 100 * outage.failed.max(1), "{report}");
    assert!(report.phases[2].success > 0.9, "{report}");
}

/// Half of the near zone goes. What is left of it takes 1.4 times its share and the far zone the rest.
#[test]
fn a_half_dead_zone_is_not_overrun() {
    let text = r#"
region = "near"
[simulation]
duration = "60s"
[clients]
rate = 500.0
[[service.group]]
region = "near"
instances = 10
[[service.group]]
region = "far"
instances = 10
distance = "20ms"
[service]
latency = { median = "20ms", sigma = 0.5 }
[[service.change]]
at = "20s"
instance = [1, 2, 3, 4, 5]
gone = true
[[service.change]]
at = "25s"
"#;
    let report = play(text, 1);
    let sent = report.phases[2].attempts as f64;
    for survivor in &report.endpoints[5..10] {
        let share = survivor.by_phase[2] as f64 / sent;
        assert!(share <= 0.1 * 1.4 * 1.05, "{share} of {}: {report}", survivor.number);
    }
    let near = report.groups[0].by_phase[2] as f64 / sent;
    assert!((0.65..0.75).contains(&near), "{near}: {report}");
    assert!(report.total.success >= 0.999, "{report}");
}

#[test]
fn ten_thousand_instances_are_chosen_from() {
    let more = "[[service.change]]\nat = \"5s\"\ninstance = [1, 2, 3]\nfailures = 1.0";
    let text = ten("20s", 2000.0, more).replace("instances = 10", "instances = 10000");
    let report = play(&text, 1);
    assert!(report.total.calls > 35_000 && report.total.success > 0.9999, "{report}");
    let most = report.endpoints.iter().map(|endpoint| endpoint.attempts).max().unwrap();
    // Four each on average.
    assert!((5..30).contains(&most), "{most}: {report}");
    assert!(report.to_string().contains("of all 10000 were ever out"), "{report}");
}

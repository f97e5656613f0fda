//! Keys under torture: clients repeat themselves, the service fails, and the proxies and the server that keeps their keys are killed
//! in the middle of it. Then every operation is judged: none had two effects, none ran twice at once, and none was acknowledged and is
//! lost. And most had a result: a proxy that knows of nothing how it ended does nothing twice either.
//!
//! A file of keys belongs to one proxy. Redis and PostgreSQL are shared by two, and clients go from one to the other; either is killed,
//! or both, or the store, or the store with them.
//!
//! Nearly two thirds of the operations are of a service that knows nothing of keys. There each effect is counted, and nothing but the
//! proxy keeps it from a second one. The others are of a service that refuses a second effect by itself, as one must to be sent things
//! again (`unknown = "retry"`): there only the order of the tokens can be wrong, that two run at once, and what clients are told.
//!
//! Everything that is left to chance comes from a seed, which is printed; `SEAWORTHY_TORTURE_SEED` gives it.
//! `SEAWORTHY_LONG_TORTURE=1` kills ten times as often.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod answer;
mod clients;
mod clock;
mod journal;
mod known;
mod lots;
mod proxy;
#[path = "../../../seaworthy/tests/servers/mod.rs"]
mod servers;
mod stage;
mod told;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;

use crate::clients::{Clients, Crowd};
use crate::known::Counted;
use crate::stage::{Life, Stage, Struck, Target};
use crate::told::Says;
use crate::upstream::{Kind, Visit};

#[test]
fn keys_in_a_file_survive_kills_of_the_proxy() {
    torture(Store::Embedded);
}

#[test]
fn keys_in_redis_survive_kills_of_both_proxies_and_of_redis() {
    torture(Store::Redis(servers::Redis::durable()));
}

#[test]
fn keys_in_postgresql_survive_kills_of_both_proxies_and_of_postgresql() {
    torture(Store::Postgres(servers::Postgres::start()));
}

/// Where the keys are.
pub(crate) enum Store {
    Embedded,
    Redis(servers::Redis),
    Postgres(servers::Postgres),
}

impl Store {
    const fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded)
    }

    fn config(&self) -> String {
        match self {
            Self::Embedded => "[idempotency]\nstore = \"embedded\"\n".to_owned(),
            Self::Redis(server) => {
                format!("[redis]\nurl = \"{}\"\n[idempotency]\nstore = \"redis\"\n", server.url())
            }
            Self::Postgres(server) => {
                format!("[idempotency]\nstore = \"postgres\"\nurl = \"{}\"\n", server.url())
            }
        }
    }

    fn hang(&self) {
        match self {
            Self::Embedded => {}
            Self::Redis(server) => server.hang(),
            Self::Postgres(server) => server.hang(),
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Embedded => {}
            Self::Redis(server) => server.kill(),
            Self::Postgres(server) => server.kill(),
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Embedded => {}
            Self::Redis(server) => server.restart(),
            Self::Postgres(server) => server.restart(),
        }
    }
}

fn torture(store: Store) {
    let seed = lots::seed();
    say(&format!("SEAWORTHY_TORTURE_SEED={seed}"));
    let twenties = if std::env::var_os("SEAWORTHY_LONG_TORTURE").is_some() { 10 } else { 1 };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut stage = Stage::set(runtime, seed, store);
    let handle = stage.runtime.handle().clone();
    let mut clients = Clients::start(&handle, seed, &stage.seats, &stage.upstream, &stage.journal);
    for _ in 0..twenties {
        stage.strike_twenty_times(&clients);
    }
    handle.block_on(clients.stop());
    let counted = Kind::ALL.map(|kind| (kind, clients.crowd.known().counted(kind)));
    let ends = judge(&stage, &clients.crowd);
    say(&format!("{} effects, answers {}", stage.upstream.effects(), clients.crowd.known().statuses()));
    if let Some(violations) = stage.journal.violations() {
        panic!("SEAWORTHY_TORTURE_SEED={seed}: {violations}\n{}", stage.said());
    }
    most_kills_met_something(&stage, &clients.crowd, twenties * 20);
    most_had_a_result(&counted, &ends, twenties * 20);
    who_is_to_wait_waits(&clients.crowd);
}

/// Asks for every operation again, with everything in order, compares what is said with what has happened, and counts how each kind
/// ended.
fn judge(stage: &Stage, crowd: &Arc<Crowd>) -> BTreeMap<Kind, Ends> {
    let (upstream, journal) = (&stage.upstream, &stage.journal);
    upstream.calm_down();
    let told = stage.runtime.block_on(async {
        let told = crowd.ask_all().await;
        let begun = Instant::now();
        while upstream.is_working() {
            assert!(begun.elapsed() < PATIENCE, "the service does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        told
    });
    assert!(!told.is_empty() && told.len() == crowd.known().asked().len());
    let mut ends: BTreeMap<Kind, Ends> = BTreeMap::new();
    for (operation, end) in &told {
        let (entry, counted) = (upstream.entry(operation), ends.entry(operation.0).or_default());
        match (operation.0.knows(), end, entry.effects) {
            (_, Says::Done { .. }, 1) => counted.done += 1,
            (_, Says::NotKept, 1) => counted.not_kept += 1,
            // Who knows keys is asked again; of anybody else it is told what is known.
            (false, Says::Unknown, 0 | 1) => counted.unknown += 1,
            // That is among the violations already.
            (_, Says::Wrong, 0 | 1) => {}
            (_, end, effects) => {
                journal.violation(operation, format!("had {effects} effects, and is {end:?}"))
            }
        }
        if let Some(wrong) = wrong_tokens(operation.0, &entry.visits, &stage.lives) {
            journal.violation(operation, wrong);
        }
    }
    ends
}

/// How the operations of a kind ended.
#[derive(Clone, Copy, Default, Debug)]
struct Ends {
    done: usize,
    not_kept: usize,
    unknown: usize,
}

/// What is wrong with the tokens of one operation, if anything.
///
/// No two lives of proxies give the same one out, and the later of two lives in the same place none that is not higher. Requests to a
/// service that knows nothing come one after the other, each under a higher token. To one that knows, repetitions and hedges come under
/// the token of their reservation, and what was given up may arrive after what followed it, which the service refuses.
fn wrong_tokens(kind: Kind, visits: &[Visit], lives: &[Life]) -> Option<String> {
    let follows = |later: u32, earlier: u32| {
        std::iter::successors(lives[later as usize].after, |life| lives[*life as usize].after)
            .any(|life| life == earlier)
    };
    let wrong = |(n, first): (usize, &Visit)| {
        visits[n + 1..].iter().any(|next| {
            let shared = first.life != next.life && first.token == next.token;
            let falls = !kind.knows() && next.token <= first.token;
            let again = (follows(next.life, first.life) && next.token <= first.token)
                || (follows(first.life, next.life) && first.token <= next.token);
            shared || falls || again
        })
    };
    let which = || visits.iter().map(|visit| (visit.life, visit.token)).collect::<Vec<_>>();
    visits
        .iter()
        .enumerate()
        .any(wrong)
        .then(|| format!("has tokens out of order (life, token): {:?}", which()))
}

/// Each kill was of something that was serving; and most interrupted an operation.
fn most_kills_met_something(stage: &Stage, crowd: &Crowd, expected: u32) {
    let (mut count, mut met) = (0, 0);
    for target in Target::ALL {
        let Struck { count: of_these, at_the_service, in_the_proxy } = stage.struck(target, crowd);
        count += of_these;
        met += at_the_service + in_the_proxy;
        if of_these > 0 {
            say(&format!(
                "{of_these} kills of {target:?}: {at_the_service} met an operation at the service, {in_the_proxy} in the proxy alone"
            ));
        }
    }
    say(&format!("{count} kills, {met} in the middle; {} more while starting", stage.while_starting()));
    assert_eq!(count, expected);
    assert!(met * 2 > count, "most kills interrupted nothing");
}

/// Of each kind of operation; and those where nothing but the proxy prevents a second effect are most.
fn most_had_a_result(counted: &[(Kind, Counted)], ends: &BTreeMap<Kind, Ends>, kills: u32) {
    let (mut all, mut naive) = (0, 0);
    for (kind, Counted { asked, acknowledged }) in counted {
        let Ends { done, not_kept, unknown } = ends[kind];
        say(&format!(
            "{asked} operations {kind:?}: {acknowledged} acknowledged; in the end {done} done, {not_kept} not kept, {unknown} unknown"
        ));
        // A kill leaves at most one for each client unknown, 64, while 175 are carried out from one to the next, on the average; and of
        // ten the service leaves one or is too slow for it. So two thirds have a result however slow the machine is.
        assert!(acknowledged * 2 > *asked && done * 2 > *asked, "most of {kind:?} had no result");
        all += asked;
        naive += if kind.knows() { 0 } else { *asked };
    }
    let enough = usize::try_from(kills).unwrap() * 30;
    assert!(naive * 2 > all && naive > enough, "{naive} of {all} were of a service that knows nothing");
}

/// Where it is to be waited for what runs, its result is had, and elsewhere that it runs.
fn who_is_to_wait_waits(crowd: &Crowd) {
    let [naive, waiting] = [Kind::Naive, Kind::Waiting].map(|kind| crowd.known().meanwhile(kind));
    say(&format!("asked for meanwhile: Naive {naive:?}, Waiting {waiting:?}"));
    assert!(naive.busy > naive.replayed && waiting.replayed > waiting.busy);
}

#[expect(clippy::print_stderr, reason = "a run is repeated by the seed that it prints")]
fn say(what: &str) {
    eprintln!("{what}");
}

/// For what takes a moment, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

use proptest::prelude::*;
use serde_json::json;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn context(name: &str) -> Fingerprint {
    Fingerprint::of(&json!({"targetingKey": name}))
}

fn keeper(config: Config) -> Keeper {
    Keeper::open(config, |_| ())
}

#[test]
fn what_was_said_last_is_known_with_its_age() {
    let keeper = keeper(Config::default());
    let anna = context("anna");
    keeper.learn(SECOND, "a", anna, &Answer::new(1));
    keeper.learn(2 * SECOND, "a", anna, &Answer::new(2));
    let good = keeper.last(5 * SECOND, "a", anna).unwrap();
    assert_eq!((&good.value, good.age(5 * SECOND)), (&json!(2), 3 * SECOND));
    assert_eq!(good.age(SECOND), Duration::ZERO, "a clock that was set back makes nothing younger than now");
    keeper.confirm(4 * SECOND, anna);
    assert_eq!(keeper.last(5 * SECOND, "a", anna).unwrap().at, 4 * SECOND);
    assert_eq!(keeper.last(5 * SECOND, "a", context("bert")), None);
}

#[test]
fn a_value_that_is_taken_back_is_forgotten() {
    let keeper = keeper(Config::default());
    let anna = context("anna");
    keeper.learn(SECOND, "a", anna, &Answer::new(1));
    keeper.learn(SECOND, "a", anna, &Answer::default());
    assert_eq!(keeper.last(SECOND, "a", anna), None);
    assert_eq!((keeper.snapshot().values, keeper.snapshot().contexts, keeper.snapshot().bytes), (0, 0, 0));
}

#[test]
fn what_all_flags_are_replaces_what_they_were() {
    let keeper = keeper(Config::default());
    let anna = context("anna");
    for flag in ["gone", "failed", "stays"] {
        keeper.learn(SECOND, flag, anna, &Answer::new(1));
    }
    keeper.learn_all(2 * SECOND, anna, &[("stays".into(), Answer::new(2))], |flag| flag == "failed");
    let known: Vec<_> = keeper
        .last_of_all(2 * SECOND, anna)
        .iter()
        .map(|(flag, good)| (flag.to_string(), good.value.clone()))
        .collect();
    assert_eq!(known, [("failed".into(), json!(1)), ("stays".into(), json!(2))]);
}

#[test]
fn what_is_too_old_is_not_given() {
    let keeper = keeper(Config { oldest: Some(10 * SECOND), ..Config::default() });
    keeper.learn(SECOND, "a", context("anna"), &Answer::new(1));
    assert!(keeper.last(11 * SECOND, "a", context("anna")).is_some());
    assert!(keeper.last(11 * SECOND + Duration::from_nanos(1), "a", context("anna")).is_none());
    assert!(keeper.last_of_all(12 * SECOND, context("anna")).is_empty());
}

#[test]
fn the_context_that_was_learned_longest_ago_goes_first() {
    let keeper = keeper(Config { most: 3, ..Config::default() });
    for name in ["anna", "bert", "cara"] {
        keeper.learn(SECOND, "a", context(name), &Answer::new(1));
    }
    keeper.learn(2 * SECOND, "a", context("anna"), &Answer::new(1));
    keeper.learn(2 * SECOND, "a", context("dora"), &Answer::new(1));
    let known =
        ["anna", "bert", "cara", "dora"].map(|name| keeper.last(SECOND, "a", context(name)).is_some());
    assert_eq!(known, [true, false, true, true]);
    assert_eq!(keeper.snapshot().evicted, 1);
}

#[test]
fn one_context_that_is_too_much_takes_what_there_is_room_for() {
    let keeper = keeper(Config { most: 3, most_bytes: 4096, ..Config::default() });
    for flag in ["a", "b", "c", "d", "e"] {
        keeper.learn(SECOND, flag, context("anna"), &Answer::new(1));
    }
    keeper.learn(SECOND, "a", context("anna"), &Answer::new("x".repeat(5000)));
    let snapshot = keeper.snapshot();
    assert_eq!((snapshot.values, snapshot.evicted), (2, 3));
}

#[test]
fn many_changes_are_few_writes_and_a_confirmation_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flags");
    let config = Config {
        file: Some(file),
        gather: Duration::from_secs(3600),
        confirm: Duration::from_secs(3600),
        ..Config::default()
    };
    let keeper = keeper(config.clone());
    for i in 0..1000 {
        keeper.learn(SECOND, &format!("flag-{i}"), context("anna"), &Answer::new(i));
    }
    keeper.flush(Duration::from_secs(30)).unwrap();
    // The first change is written at once, the rest when it is asked for.
    assert!(keeper.snapshot().writes <= 2, "{:?}", keeper.snapshot());
    let writes = keeper.snapshot().writes;
    keeper.flush(Duration::from_secs(30)).unwrap();
    assert_eq!(keeper.snapshot().writes, writes, "there was nothing new");
    keeper.learn(2 * SECOND, "last", context("anna"), &Answer::new(true));
    drop(keeper);
    let keeper = self::keeper(config);
    assert_eq!(keeper.snapshot().values, 1001, "the end writes what is left");
}

proptest! {
    /// Whatever is learned and forgotten, the bounds hold and the counts are right.
    #[test]
    fn the_bounds_hold(steps in prop::collection::vec((0_u8..6, 0_u8..6, 0_usize..400, 0_u8..5), 0..200)) {
        let config = Config { most: 8, most_bytes: 3000, ..Config::default() };
        let mut memory = Memory::default();
        for (name, flag, length, step) in steps {
            let (context, flag) = (context(&name.to_string()), flag.to_string());
            match step {
                0 => drop(memory.retain(context, |key| key != flag)),
                1 => drop(memory.confirm(SECOND, context)),
                _ => drop(memory.learn(SECOND, &flag, context, &Answer::new("x".repeat(length)), &config)),
            }
            let kept = || memory.contexts.values().flat_map(|kept| &kept.flags);
            prop_assert_eq!(memory.values, kept().count());
            prop_assert_eq!(memory.bytes, kept().map(|(key, good)| weight(key, good)).sum::<usize>());
            prop_assert!(memory.values <= config.most && memory.bytes <= config.most_bytes);
            prop_assert_eq!(memory.order.len(), memory.contexts.len());
        }
    }
}

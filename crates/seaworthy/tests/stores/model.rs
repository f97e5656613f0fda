//! Random steps, against a store and against a map that does what the contract says.

use std::collections::BTreeMap;

use bytes::Bytes;
use seaworthy::core::{Rng, Seeded};
use seaworthy::idempotency::store::{Answer, Hold, Id, Reserved, Settled, Store};
use seaworthy::idempotency::{Fingerprint, Phase, Standing, Token};

use super::{HOUR, claim, fingerprint, id, release};

/// What the contract says is kept of a key.
#[derive(Clone, Debug)]
struct Kept {
    fingerprint: Fingerprint,
    token: Token,
    phase: Phase,
    owner: Option<u128>,
    answer: Option<Answer>,
    chunks: BTreeMap<(Token, u32), Bytes>,
}

#[derive(Default)]
struct Model {
    kept: BTreeMap<Id, Kept>,
    released: Vec<(Id, Token, Phase)>,
}

impl Model {
    /// The hold, if it begins.
    fn begin(&mut self, id: &Id, owner: u128, from: Option<Token>) -> Option<Hold> {
        let open = |kept: &Kept| matches!(kept.phase, Phase::Running | Phase::Unknown);
        let token = match self.kept.get(id) {
            None => Token(1),
            Some(kept) if kept.phase == Phase::Running && kept.owner == Some(owner) => {
                return Some(Hold { token: kept.token, owner });
            }
            Some(kept) => match from {
                None if kept.phase == Phase::Free => kept.token.next(),
                Some(from) if open(kept) && kept.token == from => kept.token.next(),
                _ => return None,
            },
        };
        let kept = Kept {
            fingerprint: fingerprint(owner),
            token,
            phase: Phase::Running,
            owner: Some(owner),
            answer: None,
            chunks: BTreeMap::new(),
        };
        self.kept.insert(id.clone(), kept);
        Some(Hold { token, owner })
    }

    fn held(&mut self, id: &Id, hold: Hold) -> Option<&mut Kept> {
        self.kept.get_mut(id).filter(|kept| kept.token == hold.token && kept.owner == Some(hold.owner))
    }

    fn settle(&mut self, id: &Id, hold: Hold, settled: &Settled) -> bool {
        let Some(kept) = self.held(id, hold) else { return false };
        let answer = if let Settled::Done(answer) = settled { Some(answer.clone()) } else { None };
        match kept.phase {
            Phase::Running | Phase::Unknown => {
                kept.phase = settled.phase();
                kept.answer = answer;
                true
            }
            Phase::Done | Phase::Free => kept.phase == settled.phase() && kept.answer == answer,
        }
    }

    fn put(&mut self, id: &Id, hold: Hold, number: u32, bytes: Bytes) -> bool {
        let Some(kept) = self.held(id, hold) else { return false };
        let open = matches!(kept.phase, Phase::Running | Phase::Unknown);
        if open {
            kept.chunks.insert((hold.token, number), bytes);
        }
        open
    }

    fn release(&mut self, id: &Id, token: Token) -> bool {
        let Some(kept) = self.kept.get_mut(id).filter(|kept| kept.token == token) else { return false };
        self.released.push((id.clone(), token, kept.phase));
        kept.phase = Phase::Free;
        kept.owner = None;
        kept.answer = None;
        true
    }
}

/// Takes `steps` random steps, all of which follow from `seed`.
pub(crate) async fn walk(store: &dyn Store, seed: u64, steps: usize) {
    let mut rng = Seeded::new(seed);
    let mut model = Model::default();
    let before = store.releases(10_000).await.unwrap().len();
    for step in 0..steps {
        let id = id(&format!("walk {seed} {}", rng.next_u64() % 4));
        take(store, &mut model, &mut rng, &id, &format!("step {step} of seed {seed}")).await;
        let kept = model.kept.get(&id);
        let found = store.find(&id).await.unwrap();
        let expected =
            kept.map(|kept| Standing { fingerprint: kept.fingerprint, token: kept.token, phase: kept.phase });
        assert_eq!(found.as_ref().map(|found| found.standing), expected, "step {step} of seed {seed}");
        let answer = kept.and_then(|kept| kept.answer.clone());
        assert_eq!(found.and_then(|found| found.answer), answer, "step {step} of seed {seed}");
    }
    let released = store.releases(10_000).await.unwrap();
    let released: Vec<_> = released[..released.len() - before]
        .iter()
        .rev()
        .map(|release| (release.id.clone(), release.token, release.phase))
        .collect();
    assert_eq!(sorted(released), sorted(model.released), "seed {seed}");
}

/// Those of one moment are in no order.
fn sorted(mut all: Vec<(Id, Token, Phase)>) -> Vec<(Id, Token, Phase)> {
    all.sort_by_key(|(id, token, phase)| (id.clone(), *token, phase.name()));
    all
}

async fn take(store: &dyn Store, model: &mut Model, rng: &mut Seeded, id: &Id, at: &str) {
    let owner = u128::from(rng.next_u64() % 3) + 1;
    let current = model.kept.get(id).map_or(0, |kept| kept.token.0);
    // Mostly the one that stands, so that much comes about.
    let token = Token(if rng.next_u64().is_multiple_of(4) { current.wrapping_sub(1) } else { current });
    let hold = Hold { token, owner };
    match rng.next_u64() % 10 {
        0..=2 => same(model, id, owner, None, store.reserve(id, &claim(owner)).await.unwrap(), at),
        3 => {
            let reserved = store.take_over(id, &claim(owner), token).await.unwrap();
            same(model, id, owner, Some(token), reserved, at);
        }
        4..=6 => {
            let settled = match rng.next_u64() % 4 {
                0 => Settled::Unknown,
                1 => Settled::Free,
                n => super::answer(&n.to_string()),
            };
            let done = store.settle(id, hold, &settled, HOUR).await.unwrap();
            assert_eq!(done, model.settle(id, hold, &settled), "{at}: {settled:?} by {hold:?}");
        }
        7 => {
            let (number, bytes) =
                ((rng.next_u64() % 2) as u32, Bytes::from(rng.next_u64().to_be_bytes().to_vec()));
            let put = store.put_chunk(id, hold, number, bytes.clone(), HOUR).await.unwrap();
            assert_eq!(put, model.put(id, hold, number, bytes), "{at}: a chunk by {hold:?}");
        }
        8 => {
            let number = (rng.next_u64() % 2) as u32;
            let kept = model.kept.get(id).filter(|kept| kept.phase != Phase::Free && kept.token == token);
            // What is free has no result, and whether its pieces are still there is nobody's business.
            if let Some(kept) = kept {
                let chunk = store.chunk(id, token, number).await.unwrap();
                assert_eq!(
                    chunk,
                    kept.chunks.get(&(token, number)).cloned(),
                    "{at}: chunk {number} of {token}"
                );
            }
        }
        _ => {
            let released = store.release(&release(id, token, at)).await.unwrap();
            assert_eq!(released, model.release(id, token), "{at}: a release of {token}");
        }
    }
}

fn same(model: &mut Model, id: &Id, owner: u128, from: Option<Token>, reserved: Reserved, at: &str) {
    let expected = model.begin(id, owner, from);
    match (reserved, expected) {
        (Reserved::New(hold), Some(expected)) => assert_eq!(hold, expected, "{at}"),
        (Reserved::Found(record), None) => {
            let kept = &model.kept[id];
            assert_eq!((record.standing.token, record.standing.phase), (kept.token, kept.phase), "{at}");
        }
        (reserved, expected) => panic!("{at}: {reserved:?} where the contract has {expected:?}"),
    }
}

//! Retry with a budget, when nothing has to be retried: what the deposit costs.

use std::sync::Arc;
use std::time::Duration;

use tower::Layer;
use tower::retry::budget::{Budget, TpsBudget};
use tower::retry::{Policy, Retry};
use tower_resilience::retry::{RetryBudgetBuilder, RetryLayer};

use super::{Case, Never, Ready, Shared, service};

pub(super) fn cases() -> Vec<Case> {
    let case = |library, build| Case { policy: "retry with budget", library, most_threads: 2, build };
    vec![case("tower", || service(Retry::new(budgeted(), Ready))), case("tower-resilience", tower_resilience)]
}

/// A fifth of the traffic and ten a second, as tower's own default has it.
pub(super) fn budgeted() -> Budgeted {
    Budgeted { budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 10, 0.2)), left: 2 }
}

/// The policy that tower's documentation shows: an attempt more costs the budget, a success fills it.
#[derive(Clone, Debug)]
pub(super) struct Budgeted {
    budget: Arc<TpsBudget>,
    left: u8,
}

impl<E> Policy<u64, u64, E> for Budgeted {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _request: &mut u64, result: &mut Result<u64, E>) -> Option<Self::Future> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        if self.left == 0 || !self.budget.withdraw() {
            return None;
        }
        self.left -= 1;
        Some(std::future::ready(()))
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

fn tower_resilience() -> Shared {
    let budget = RetryBudgetBuilder::new().token_bucket().tokens_per_second(10.0).max_tokens(100).build();
    let budget = budget.expect("these numbers are valid");
    service(RetryLayer::<u64, u64, Never>::builder().max_attempts(3).budget(budget).build().layer(Ready))
}

//! Fallback: an answer of our own when there is none from the upstream.
//!
//! # What it is for
//! Where something is better than nothing: an empty list of recommendations, a default, a page that says so.
//!
//! # When not to use it
//! Where a made-up answer misleads: balances, stock, permissions. And never silently: a call that was answered so counts
//! as a success for its caller and as a failure of the upstream, and its record says
//! [`What::FellBack`](crate::What::FellBack).
//!
//! # How
//! The call machine decides *that* the fallback answers; the driver holds *what* it answers.

use super::Finish;
use crate::Outcome;

/// Whether a call that would end like this is answered by its fallback instead: every refusal and every failure, but not
/// an answer that the upstream meant (a 404 is one) and not a call whose caller is gone.
#[must_use]
pub const fn covers(finish: &Finish) -> bool {
    match finish {
        Finish::Answer { outcome, .. } => outcome.is_failure(),
        Finish::Failed { outcome, .. } => !matches!(outcome, Outcome::Abandoned),
        Finish::Rejected(_) => true,
        Finish::Fallback | Finish::Gone => false,
    }
}

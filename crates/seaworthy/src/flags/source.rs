//! Where flags come from.

use open_feature::async_trait;
use serde_json::Value;

use super::answer::{Answer, Trouble};
use super::ofrep::OfAll;

/// A flag service.
///
/// A source may take as long as it likes and may even panic: whoever asks it gives it a bounded time and catches that.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Evaluates one flag for `context`, an object or `null`.
    async fn evaluate(&self, flag: &str, context: &Value) -> Result<Answer, Trouble>;

    /// Evaluates all flags for `context`, unless nothing has changed since the answer that had this tag.
    async fn evaluate_all(&self, context: &Value, tag: Option<&str>) -> Result<All, Trouble>;
}

/// What a [`Source`] says of all flags.
#[derive(Clone, PartialEq, Debug)]
pub enum All {
    /// What it said before.
    Unchanged,
    /// Something new.
    Changed {
        /// Names this answer, for the next time.
        tag: Option<String>,
        /// The flags.
        flags: OfAll,
    },
}

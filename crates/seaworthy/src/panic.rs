//! Panics of the work that the library does for others.

use std::any::Any;

/// What a panic said.
pub(crate) fn message(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "it said nothing".to_owned(),
    }
}

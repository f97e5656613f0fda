//! The last good answers, kept for when there is no other: a shared HTTP cache (RFC 9111) that may be asked after its
//! answers' time (`stale-if-error` and `stale-while-revalidate`, RFC 5861).
//!
//! ```text
//!  Question::of(request) ---> Store::look -----> Fresh | Stale | Miss          before the upstream is asked
//!                             Flights::join ---> one asks, the others wait     while a stale one is refreshed
//!                             Store::answered -> Recorder                      fed with the answer as it streams by
//!                             Store::refreshed                                 when the upstream said 304
//!                             Store::on_error -> what may be served instead    when there is no answer
//!  Stored::response  <-------------------------- as this client asked for it: HEAD, 304, 206, 416
//! ```
//!
//! Whether an answer may be stored, how long it is fresh and whether a 304 is about it, `http-cache-semantics` decides. It
//! is fed with headers that were read and written anew here: it compares directives' names by case, adds ages without a
//! check and looks at the first line of a field alone. What it has no notion of (RFC 5861, several variants, more than
//! one line of a field) is decided beside it.
//!
//! Never kept, though RFC 9111 would let a cache: answers that set a cookie, since they were made for one visitor, and answers
//! to requests with a cookie, unless they say how long they last or that they vary by it. So a page that was made for somebody
//! is not shown to another because its origin said nothing.

mod directives;
mod entry;
mod flight;
mod question;
mod recorder;
mod show;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use entry::Stored;
pub(crate) use flight::{Flights, Leader, Turn};
pub(crate) use question::{Moment, Question, Rules};
pub(crate) use recorder::Recorder;
pub(crate) use show::{How, Shown};
pub(crate) use store::{Look, Store};

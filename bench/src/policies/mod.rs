//! What is compared: the same successful call through the same policy of different libraries.
//!
//! A case is built once and shared by all threads that call it, as a program shares one breaker among its workers. Every
//! call goes through an async interface with the time driver of tokio at hand, and out of tokio's cooperative budget,
//! which would add a trip through the scheduler every 128 calls to those libraries alone that use tokio's semaphore.

use std::cell::RefCell;
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::task::unconstrained;
use tower::{Service, ServiceExt};

mod balance;
mod breaker;
mod hedge;
mod limit;
mod ours;
mod retry;
mod stack;
mod timeout;

/// A number of calls, one after the other; true if all succeeded.
pub type Calls = Pin<Box<dyn Future<Output = bool>>>;

/// What one thread does with its handle: so many calls.
pub type Worker = Box<dyn FnMut(u64) -> Calls>;

/// One shared policy: gives each thread its handle.
pub type Shared = Box<dyn Fn() -> Worker + Send + Sync>;

/// One policy of one library.
pub struct Case {
    /// What is compared; cases with the same one stand side by side.
    pub policy: &'static str,
    /// Whose it is.
    pub library: &'static str,
    /// How many threads may share one: some can't be shared.
    pub most_threads: usize,
    /// Makes the shared policy. Called within a tokio runtime.
    pub build: fn() -> Shared,
}

impl Case {
    /// Its name on a command line.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.policy, self.library).replace(' ', "-")
    }
}

/// All cases, in the order of the table.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case { policy: "bare call", library: "none", most_threads: 2, build: || service(Ready) },
        Case {
            policy: "bare call, pending once",
            library: "none",
            most_threads: 2,
            build: || service(Pending),
        },
    ];
    cases.extend(timeout::cases());
    cases.extend(retry::cases());
    cases.extend(breaker::cases());
    cases.extend(limit::cases());
    cases.extend(hedge::cases());
    cases.extend(stack::cases());
    cases.extend(balance::cases());
    let mut all = Vec::new();
    let mut ours = ours::cases();
    for case in cases {
        // Ours stands before the first of those it is compared with.
        all.extend(ours.extract_if(.., |own| own.policy == case.policy));
        all.push(case);
    }
    all.extend(ours);
    all
}

/// A runtime with a clock and nothing else, as each thread of a benchmark has its own.
///
/// # Errors
/// The operating system refused.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()
}

/// The service that is guarded: it answers at once.
#[derive(Clone, Debug)]
pub struct Ready;

/// The service that is guarded: it answers when it is asked for the second time.
#[derive(Clone, Debug)]
pub struct Pending;

/// The error that never happens.
#[derive(Clone, Debug)]
pub struct Never;

impl std::fmt::Display for Never {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("never")
    }
}

impl std::error::Error for Never {}

impl Service<u64> for Ready {
    type Response = u64;
    type Error = Never;
    type Future = std::future::Ready<Result<u64, Never>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Never>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        std::future::ready(Ok(black_box(request)))
    }
}

impl Service<u64> for Pending {
    type Response = u64;
    type Error = Never;
    type Future = Once;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Never>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Once {
        Once { answer: request, asked: false }
    }
}

/// An answer that is pending once.
#[derive(Debug)]
pub struct Once {
    answer: u64,
    asked: bool,
}

impl Future for Once {
    type Output = Result<u64, Never>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.asked {
            return Poll::Ready(Ok(black_box(self.answer)));
        }
        self.asked = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Calls through a Tower service; each thread has a clone.
fn service<S>(service: S) -> Shared
where
    S: Service<u64> + Clone + Send + 'static,
    S::Future: 'static,
{
    let template = Mutex::new(service);
    Box::new(move || owned(template.lock().unwrap_or_else(PoisonError::into_inner).clone()))
}

/// Calls through a service of one thread's own.
fn owned<S>(service: S) -> Worker
where
    S: Service<u64> + 'static,
    S::Future: 'static,
{
    // The calls take the service with them and bring it back, since not every service can be cloned.
    let shelf = Rc::new(RefCell::new(Some(service)));
    Box::new(move |count| {
        let shelf = Rc::clone(&shelf);
        Box::pin(unconstrained(async move {
            let Some(mut service) = shelf.take() else { return false };
            let mut succeeded = true;
            for request in 0..count {
                let answer = match service.ready().await {
                    Ok(ready) => ready.call(black_box(request)).await,
                    Err(error) => Err(error),
                };
                succeeded &= answer.is_ok();
            }
            shelf.replace(Some(service));
            succeeded
        }))
    })
}

/// Calls through anything that is shared by reference: `call` makes so many of them.
fn shared<P, F>(policy: P, call: fn(Arc<P>, u64) -> F) -> Shared
where
    P: Send + Sync + 'static,
    F: Future<Output = bool> + 'static,
{
    let policy = Arc::new(policy);
    Box::new(move || {
        let policy = Arc::clone(&policy);
        Box::new(move |count| {
            let policy = Arc::clone(&policy);
            Box::pin(unconstrained(async move { call(policy, count).await }))
        })
    })
}

//! The layer that answers when there is no answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::error::Error;

/// Answers in place of a service behind any of the other layers whose call ended in an error. See
/// [`call::fallback`](seaworthy_core::call::fallback) for when not to.
///
/// The function is told the error with its record, and returns the answer, or the error to pass on. An answer of its own
/// should say that it is one.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use seaworthy::layer::{Fallback, Standard};
/// use seaworthy::{Error, Pipeline};
/// use tower::{Layer, Service, ServiceExt, service_fn};
///
/// let down = service_fn(|_user: u32| async { Err::<Vec<&str>, _>("down") });
/// let guarded = Standard::new(Pipeline::new("recommendations")).layer(down);
/// let popular = |_error: Error<&str>| Ok(vec!["popular"]);
/// let mut service = Fallback::new(popular).layer(guarded);
/// assert_eq!(service.ready().await.unwrap().call(7).await.unwrap(), ["popular"]);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Fallback<F> {
    answer: F,
}

impl<F> Fallback<F> {
    /// The layer that asks `answer`.
    pub const fn new(answer: F) -> Self {
        Self { answer }
    }
}

impl<S, F: Clone> Layer<S> for Fallback<F> {
    type Service = FallingBack<S, F>;

    fn layer(&self, service: S) -> Self::Service {
        FallingBack { service, answer: self.answer.clone() }
    }
}

/// A service with a [`Fallback`].
#[derive(Clone, Debug)]
pub struct FallingBack<S, F> {
    service: S,
    answer: F,
}

impl<S, R, E, F> Service<R> for FallingBack<S, F>
where
    S: Service<R, Error = Error<E>>,
    F: Fn(Error<E>) -> Result<S::Response, Error<E>> + Clone,
{
    type Response = S::Response;
    type Error = Error<E>;
    type Future = OrElse<S::Future, F>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        OrElse { future: self.service.call(request), answer: self.answer.clone() }
    }
}

pin_project! {
    /// An answer, or the fallback's.
    #[must_use = "a call does nothing unless it is awaited"]
    pub struct OrElse<T, F> {
        #[pin]
        future: T,
        answer: F,
    }
}

impl<T, A, E, F> Future for OrElse<T, F>
where
    T: Future<Output = Result<A, Error<E>>>,
    F: Fn(Error<E>) -> Result<A, Error<E>>,
{
    type Output = Result<A, Error<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(ready!(this.future.poll(cx)).or_else(this.answer))
    }
}

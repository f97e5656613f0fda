//! The service that all layers make.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use seaworthy_core::call::Repeat;
use tower_layer::Layer;
use tower_service::Service;

use crate::caller::{Anybody, Callers};
use crate::classify::{Classify, Plain, Repeatable};
use crate::drive::{Attempt, Attempts, Drive};
use crate::error::Error;
use crate::pipeline::{Inner, Pipeline};

/// The layer of a whole [`Pipeline`]. `C` says what results mean and which requests may be repeated, see
/// [`classify`](crate::classify); `B` says by whom requests come, see [`caller`](crate::caller).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use seaworthy::{Pipeline, layer::Standard};
/// use tower::{Layer, Service, ServiceExt, service_fn};
///
/// let prices = service_fn(|item: u32| async move { Ok::<_, std::io::Error>(item * 100) });
/// let mut prices = Standard::new(Pipeline::new("prices")).layer(prices);
/// assert_eq!(prices.ready().await.unwrap().call(3).await.unwrap(), 300);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Standard<C = Plain, B = Anybody> {
    pipeline: Pipeline,
    classify: C,
    callers: B,
}

impl Standard {
    /// The layer of `pipeline`, for requests that may all be repeated.
    #[must_use]
    pub const fn new(pipeline: Pipeline) -> Self {
        Self { pipeline, classify: Plain, callers: Anybody }
    }
}

impl<C, B> Standard<C, B> {
    /// The same, with another meaning of requests and results, such as [`Http`](crate::classify::Http).
    #[must_use]
    pub fn classified<D>(self, classify: D) -> Standard<D, B> {
        Standard { pipeline: self.pipeline, classify, callers: self.callers }
    }

    /// The same, for requests of several callers: `callers` tells by whom each comes and how much it matters. Any
    /// `Fn(&Request) -> Caller` does, and so does [`FromExtensions`](crate::caller::FromExtensions).
    #[must_use]
    pub fn callers<D>(self, callers: D) -> Standard<C, D> {
        Standard { pipeline: self.pipeline, classify: self.classify, callers }
    }

    /// The pipeline, for its snapshots, events and overrides.
    #[must_use]
    pub const fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }
}

impl<S, C: Clone, B: Clone> Layer<S> for Standard<C, B> {
    type Service = Resilient<S, C, B>;

    fn layer(&self, service: S) -> Self::Service {
        let Self { pipeline, classify, callers } = self.clone();
        Resilient { service, pipeline, classify, callers }
    }
}

/// A service behind a [`Pipeline`].
#[derive(Clone, Debug)]
pub struct Resilient<S, C = Plain, B = Anybody> {
    service: S,
    pipeline: Pipeline,
    classify: C,
    callers: B,
}

impl<S, R, C, B> Service<R> for Resilient<S, C, B>
where
    S: Service<R> + Clone,
    B: Callers<R>,
    C: Classify<S::Response, S::Error> + Repeatable<R> + Clone,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = Drive<Arc<Inner>, Tries<S, R, C>, C>;

    /// Always ready: what must wait or be refused is so in `call`, where it has a reason. The inner service is made ready
    /// for each attempt.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (repeat, caller) = (self.classify.repeat(&request), self.callers.caller(&request));
        let tries = Tries {
            service: self.service.clone(),
            request: Some(request),
            keep: repeat != Repeat::Never,
            classify: self.classify.clone(),
        };
        self.pipeline.call_owned(repeat, self.classify.clone(), tries).of(caller)
    }
}

/// The attempts of one request at a service.
#[derive(Debug)]
pub struct Tries<S, R, C> {
    service: S,
    request: Option<R>,
    /// Whether a copy is kept for a further attempt.
    keep: bool,
    classify: C,
}

impl<S, R, C> Attempts for Tries<S, R, C>
where
    S: Service<R> + Clone,
    C: Repeatable<R>,
{
    type Ok = S::Response;
    type Err = S::Error;
    type Future = Answer<S, R>;

    fn attempt(&mut self, _attempt: Attempt) -> Self::Future {
        let request = self.request.take();
        if self.keep {
            self.request = request.as_ref().and_then(|request| self.classify.copy(request));
        }
        Answer { service: self.service.clone(), request, future: None }
    }

    fn can_repeat(&self) -> bool {
        self.request.is_some()
    }
}

pin_project! {
    /// One attempt: the service made ready, then called.
    #[must_use = "an attempt does nothing unless it is awaited"]
    pub struct Answer<S: Service<R>, R> {
        service: S,
        request: Option<R>,
        #[pin]
        future: Option<S::Future>,
    }
}

impl<S: Service<R>, R> Future for Answer<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let Some(future) = this.future.as_mut().as_pin_mut() {
                return future.poll(cx);
            }
            ready!(this.service.poll_ready(cx))?;
            let Some(request) = this.request.take() else {
                unreachable!("the machine makes no further attempt once it was told that there is no request")
            };
            let future = this.service.call(request);
            this.future.set(Some(future));
        }
    }
}

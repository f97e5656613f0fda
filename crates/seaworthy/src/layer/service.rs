//! The service that all layers make.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use seaworthy_core::call::Repeat;
use tower_layer::Layer;
use tower_service::Service;

use crate::classify::{Classify, Plain, Repeatable};
use crate::drive::{Attempt, Attempts, Drive};
use crate::error::Error;
use crate::pipeline::{Inner, Pipeline};

/// The layer of a whole [`Pipeline`]. `C` says what results mean and which requests may be repeated; see
/// [`classify`](crate::classify).
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
pub struct Standard<C = Plain> {
    pipeline: Pipeline,
    classify: C,
}

impl Standard {
    /// The layer of `pipeline`, for requests that may all be repeated.
    #[must_use]
    pub const fn new(pipeline: Pipeline) -> Self {
        Self { pipeline, classify: Plain }
    }
}

impl<C> Standard<C> {
    /// The same, with another meaning of requests and results, such as [`Http`](crate::classify::Http).
    #[must_use]
    pub fn classified<D>(self, classify: D) -> Standard<D> {
        Standard { pipeline: self.pipeline, classify }
    }

    /// The pipeline, for its snapshots, events and overrides.
    #[must_use]
    pub const fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }
}

impl<S, C: Clone> Layer<S> for Standard<C> {
    type Service = Resilient<S, C>;

    fn layer(&self, service: S) -> Self::Service {
        Resilient { service, pipeline: self.pipeline.clone(), classify: self.classify.clone() }
    }
}

/// A service behind a [`Pipeline`].
#[derive(Clone, Debug)]
pub struct Resilient<S, C = Plain> {
    service: S,
    pipeline: Pipeline,
    classify: C,
}

impl<S, R, C> Service<R> for Resilient<S, C>
where
    S: Service<R> + Clone,
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
        let repeat = self.classify.repeat(&request);
        let tries = Tries {
            service: self.service.clone(),
            request: Some(request),
            keep: repeat != Repeat::Never,
            classify: self.classify.clone(),
        };
        self.pipeline.call_owned(repeat, self.classify.clone(), tries)
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

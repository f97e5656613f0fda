//! The Tower layers as their users see them, on tokio's paused clock.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Method, Request, Response};
use seaworthy::caller::FromExtensions;
use seaworthy::classify::{Classify, Http};
use seaworthy::core::call::{budget, hedge, retry};
use seaworthy::core::gate::{limit, queue, rate};
use seaworthy::layer::{Breaker, Hedge, Limit, Queue, Rate, Retry, Standard, Throttle, Timeout};
use seaworthy::{Caller, Criticality, Error, Failure, Mode, Outcome, Pipeline, Policy, Reason};
use tower::{Layer, Service, ServiceExt, service_fn};

type Reply = Result<Response<()>, &'static str>;

/// A service that counts its calls and answers as `answer` says for each.
fn counting(
    calls: &Arc<AtomicU32>,
    answer: impl Fn(u32) -> Reply + Clone + Send + 'static,
) -> impl Service<Request<()>, Response = Response<()>, Error = &'static str, Future: Send> + Clone {
    let calls = calls.clone();
    service_fn(move |_request: Request<()>| {
        let reply = answer(calls.fetch_add(1, Ordering::Relaxed) + 1);
        async move { reply }
    })
}

fn status(status: u16) -> Reply {
    Ok(Response::builder().status(status).body(()).unwrap())
}

fn request(method: Method) -> Request<()> {
    Request::builder().method(method).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_standard_layer_retries_what_http_calls_safe() {
    for (method, expected) in [(Method::GET, 2), (Method::PUT, 2), (Method::POST, 1)] {
        let calls = Arc::new(AtomicU32::new(0));
        let service = counting(&calls, |n| status(if n == 1 { 503 } else { 200 }));
        let mut service = Standard::new(Pipeline::new("test")).classified(Http).layer(service);
        let answer = service.ready().await.unwrap().call(request(method.clone())).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), expected, "{method}");
        assert_eq!(answer.status().is_success(), expected == 2, "{method}");
    }
}

/// Nothing was sent, but the service has taken the request: there is no copy that could be sent again.
#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_kept_is_not_sent_again_even_if_it_never_arrived() {
    let classify = ConnectErrors;
    let calls = Arc::new(AtomicU32::new(0));
    let service = counting(&calls, |_| Err("connection refused"));
    let mut service = Standard::new(Pipeline::new("test")).classified(classify).layer(service);
    let error = service.ready().await.unwrap().call(request(Method::POST)).await.unwrap_err();
    assert_eq!(error.into_service(), Some("connection refused"));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[derive(Clone)]
struct ConnectErrors;

impl Classify<Response<()>, &'static str> for ConnectErrors {
    fn classify(&self, result: Result<&Response<()>, &&'static str>) -> Outcome {
        match result {
            Err(_) => Outcome::failed(Failure::Connect),
            other => Http.classify(other),
        }
    }
}

impl seaworthy::classify::Repeatable<Request<()>> for ConnectErrors {
    fn repeat(&self, request: &Request<()>) -> seaworthy::Repeat {
        Http.repeat(request)
    }

    fn copy(&self, request: &Request<()>) -> Option<Request<()>> {
        Http.copy(request)
    }
}

#[tokio::test(start_paused = true)]
async fn the_breaker_layer_opens_and_does_not_ask_the_service() {
    let calls = Arc::new(AtomicU32::new(0));
    let mut service = Breaker::new(Default::default()).unwrap().layer(counting(&calls, |_| Err("no")));
    for _ in 0..5 {
        service.ready().await.unwrap().call(request(Method::GET)).await.unwrap_err();
    }
    let error = service.ready().await.unwrap().call(request(Method::GET)).await.unwrap_err();
    assert_eq!(error.rejection().unwrap().reason, Reason::Open);
    assert!(error.retry_after().is_some());
    assert_eq!(calls.load(Ordering::Relaxed), 5);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_layer_cuts_off() {
    let hanging = service_fn(|(): ()| pending::<Result<(), ()>>());
    let numbers = seaworthy::core::call::timeout::Config {
        fixed: Some(Duration::from_millis(20)),
        ..Default::default()
    };
    let mut service = Timeout::new(numbers).unwrap().layer(hanging);
    let error = service.ready().await.unwrap().call(()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }));
}

#[tokio::test(start_paused = true)]
async fn the_limit_layer_refuses_and_clones_share_it() {
    let hanging = service_fn(|(): ()| pending::<Result<(), ()>>());
    let numbers = limit::Config { max_in_flight: 1, ..Default::default() };
    let mut service = Limit::new(numbers).unwrap().layer(hanging);
    let mut clone = service.clone();
    let mut first = Box::pin(service.ready().await.unwrap().call(()));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut first).await.is_err());
    let error = clone.ready().await.unwrap().call(()).await.unwrap_err();
    assert_eq!(error.rejection().unwrap().policy, Policy::Limit);
}

/// A readied but unused clone of tower's limit holds its permit, and sheds everybody else's calls.
#[tokio::test(start_paused = true)]
async fn a_clone_that_is_ready_and_unused_holds_no_permit() {
    let numbers = limit::Config { max_in_flight: 1, ..Default::default() };
    let service = service_fn(|n: u32| async move { Ok::<_, ()>(n) });
    let mut service = Limit::new(numbers).unwrap().layer(service);
    let mut idle = service.clone();
    let _ready = idle.ready().await.unwrap();
    for n in 0..100 {
        assert_eq!(service.ready().await.unwrap().call(n).await.unwrap(), n);
    }
}

/// tower's `TpsBudget` rounds a share of 0.4 up to 0.5 and 0.6 up to 1.
#[tokio::test(start_paused = true)]
async fn the_retry_layer_s_budget_is_the_share_that_was_asked_for() {
    for share in [0.1, 0.4, 0.6, 0.9] {
        let calls = Arc::new(AtomicU32::new(0));
        let numbers = (retry::Config::default(), budget::Config { share, per_second: 0.0, burst: 1 });
        let mut service = Retry::new(numbers).unwrap().layer(counting(&calls, |_| Err("no")));
        for _ in 0..1_000 {
            service.ready().await.unwrap().call(request(Method::GET)).await.unwrap_err();
        }
        let extra = f64::from(calls.load(Ordering::Relaxed) - 1_000);
        // The bucket began with one token.
        assert!((1_000.0 * share..=1_000.0 * share + 1.0).contains(&extra), "{extra} at {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_hedge_layer_in_observe_only_mode_sends_nothing_twice() {
    for (mode, expected) in [(Mode::Observe, 31), (Mode::Off, 32)] {
        let calls = Arc::new(AtomicU32::new(0));
        let seen = calls.clone();
        let service = service_fn(move |(): ()| {
            let n = seen.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(if n == 30 { 500 } else { 10 })).await;
                Ok::<_, ()>(())
            }
        });
        let numbers = hedge::Config { mode, ..Default::default() };
        let mut service = Hedge::new(numbers).unwrap().layer(service);
        for _ in 0..31 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            service.ready().await.unwrap().call(()).await.unwrap();
        }
        assert_eq!(calls.load(Ordering::Relaxed), expected, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_fallback_layer_answers_for_failures_only_and_may_pass_them_on() {
    let calls = Arc::new(AtomicU32::new(0));
    let service = counting(&calls, |n| if n == 1 { status(200) } else { Err("no") });
    let guarded = Breaker::new(Default::default()).unwrap().layer(service);
    let answer = |error: Error<&'static str>| match error {
        Error::Service { .. } => Ok(Response::builder().status(203).body(()).unwrap()),
        refused => Err(refused),
    };
    let mut service = seaworthy::layer::Fallback::new(answer).layer(guarded);
    for expected in [200, 203, 203, 203, 203, 203] {
        let answer = service.ready().await.unwrap().call(request(Method::GET)).await.unwrap();
        assert_eq!(answer.status(), expected);
    }
    let error = service.ready().await.unwrap().call(request(Method::GET)).await.unwrap_err();
    assert_eq!(error.rejection().unwrap().reason, Reason::Open);
}

#[tokio::test(start_paused = true)]
async fn the_rate_layer_tells_callers_apart() {
    let numbers = rate::Config { burst: 1, ..Default::default() };
    let by_host = |request: &Request<()>| Caller::default().client(request.uri().host());
    let calls = Arc::new(AtomicU32::new(0));
    let mut service = Rate::new(numbers).unwrap().callers(by_host).layer(counting(&calls, |_| status(200)));
    let to = |host: &str| Request::builder().uri(format!("http://{host}/")).body(()).unwrap();
    service.ready().await.unwrap().call(to("one")).await.unwrap();
    let error = service.ready().await.unwrap().call(to("one")).await.unwrap_err();
    let rejection = error.rejection().unwrap();
    assert_eq!((rejection.policy, rejection.reason), (Policy::Rate, Reason::RateExceeded));
    service.ready().await.unwrap().call(to("two")).await.unwrap();
    tokio::time::sleep(error.retry_after().unwrap()).await;
    service.ready().await.unwrap().call(to("one")).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

/// Who reads the credentials knows the caller, and need not be who holds the queue.
#[tokio::test(start_paused = true)]
async fn the_queue_layer_reads_whose_a_request_is_and_serves_the_critical_first() {
    let numbers = (limit::Config { max_in_flight: 1, ..Default::default() }, queue::Config::default());
    let layer = Queue::new(numbers).unwrap().callers(FromExtensions);
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = order.clone();
    let service = layer.layer(service_fn(move |request: Request<()>| {
        seen.lock().unwrap().push(request.extensions().get::<Caller>().copied());
        async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            status(200)
        }
    }));
    let sheddable = Some(Caller::new(Criticality::Sheddable));
    let plus = Some(Caller::new(Criticality::CriticalPlus));
    let send = |caller: Option<Caller>| {
        let mut service = service.clone();
        let mut request = request(Method::GET);
        caller.map(|caller| request.extensions_mut().insert(caller));
        async move { service.ready().await.unwrap().call(request).await.unwrap() }
    };
    tokio::join!(send(sheddable), send(sheddable), send(None), send(plus));
    assert_eq!(*order.lock().unwrap(), [sheddable, plus, None, sheddable]);
    assert_eq!(layer.pipeline().snapshot().queue.served, [1, 1, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_throttle_layer_stops_sending_what_is_answered_429() {
    let calls = Arc::new(AtomicU32::new(0));
    let layer = Throttle::new(Default::default()).unwrap().classified(Http);
    let mut service = layer.layer(counting(&calls, |_| status(429)));
    let mut throttled = 0;
    for _ in 0..5_000 {
        if let Err(error) = service.ready().await.unwrap().call(request(Method::GET)).await {
            assert_eq!(error.rejection().unwrap().policy, Policy::Throttle);
            throttled += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(throttled > 3_500, "{throttled}");
    assert_eq!(calls.load(Ordering::Relaxed) + throttled, 5_000);
}

//! Feature flags against a real flag service that is killed, hangs and lies, and against files that are damaged.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use open_feature::provider::{FeatureProvider, ProviderStatus};
use open_feature::{
    EvaluationContext, EvaluationErrorCode, EvaluationReason, FlagMetadataValue, async_trait,
};
use seaworthy::flags::{All, Answer, Builder, Flags, Notice, OfrepClient, Origin, Source, Trouble};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What the service does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Well,
    Hangs,
    Garbage,
    Fails,
    Limits,
    Forbids,
    KnowsNothing,
    CutsOff,
}

/// A flag service over HTTP. `new-checkout` is on for anna and off for all others.
struct Service {
    at: SocketAddr,
    shared: Arc<Shared>,
    /// Its own, so that its connections end with it.
    runtime: Option<Runtime>,
}

struct Shared {
    mood: Mutex<Mood>,
    asked: AtomicU32,
    unchanged: AtomicU32,
}

impl Service {
    async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_at(at: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            mood: Mutex::new(Mood::Well),
            asked: AtomicU32::new(0),
            unchanged: AtomicU32::new(0),
        });
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            axum::serve(TcpListener::from_std(listener).unwrap(), app).await.unwrap();
        });
        Self { at, shared, runtime: Some(runtime) }
    }

    fn turns(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> u32 {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Flags of this service, without a file and with some defaults.
    fn flags(&self) -> Builder {
        let client = OfrepClient::new(&format!("http://{}", self.at)).unwrap();
        let client = client.header(HeaderName::from_static("x-api-key"), HeaderValue::from_static("k"));
        declared(Flags::of(client))
    }

    /// Ends it; from now on connections are refused. Its address.
    async fn kill(mut self) -> SocketAddr {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(60))).await.unwrap();
        self.at
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn declared(flags: Builder) -> Builder {
    flags.declare("new-checkout", false).declare("colour", "grey").declare("limits", json!({"items": 10}))
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: String) -> Response {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    assert_eq!(headers["x-api-key"], "k");
    let mood = *shared.mood.lock().unwrap();
    match mood {
        Mood::Well => well(&shared, &uri, &headers, &body),
        Mood::Hangs => std::future::pending().await,
        Mood::Garbage => "<html>It works!</html>".into_response(),
        Mood::Fails => (StatusCode::INTERNAL_SERVER_ERROR, "{}").into_response(),
        Mood::Limits => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "300")]).into_response(),
        Mood::Forbids => StatusCode::UNAUTHORIZED.into_response(),
        Mood::KnowsNothing => {
            (StatusCode::NOT_FOUND, r#"{"key":"x","errorCode":"FLAG_NOT_FOUND"}"#).into_response()
        }
        Mood::CutsOff => r#"{"key":"new-checkout","value":tr"#.into_response(),
    }
}

fn well(shared: &Shared, uri: &Uri, headers: &HeaderMap, body: &str) -> Response {
    let request: Value = serde_json::from_str(body).unwrap();
    let anna = request["context"]["targetingKey"] == "anna";
    let flags = [
        json!({"key": "new-checkout", "value": anna, "reason": "TARGETING_MATCH", "variant": "v", "metadata": {"owner": "shop"}}),
        json!({"key": "colour", "value": "blue", "reason": "STATIC"}),
        json!({"key": "share", "value": 0.5}),
        json!({"key": "limits", "value": {"items": 99, "tags": ["a"]}}),
        json!({"key": "left-to-you", "reason": "DEFAULT"}),
    ];
    match uri.path().strip_prefix("/ofrep/v1/evaluate/flags") {
        Some("") if headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == "\"1\"") => {
            shared.unchanged.fetch_add(1, Ordering::SeqCst);
            StatusCode::NOT_MODIFIED.into_response()
        }
        Some("") => ([(header::ETAG, "\"1\"")], json!({ "flags": flags }).to_string()).into_response(),
        Some(key) => match flags.iter().find(|flag| flag["key"] == key[1..]) {
            Some(flag) => flag.to_string().into_response(),
            None => (StatusCode::NOT_FOUND, json!({"key": key, "errorCode": "FLAG_NOT_FOUND"}).to_string())
                .into_response(),
        },
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn anna() -> Value {
    json!({"targetingKey": "anna"})
}

fn bert() -> Value {
    json!({"targetingKey": "bert"})
}

async fn checkout(flags: &Flags, context: &Value) -> (Value, &'static str) {
    let evaluation = flags.evaluate("new-checkout", context).await;
    (evaluation.value.unwrap_or_default(), evaluation.origin.name())
}

/// Every way in which a service can fail leads to the same three answers.
async fn falls_back(flags: &Flags) {
    assert_eq!(checkout(flags, &anna()).await, (json!(true), "last-known-good"));
    // Not anna's value: nobody knows bert's.
    assert_eq!(checkout(flags, &bert()).await, (json!(false), "declared"));
    let unknown = flags.evaluate("unknown", &anna()).await;
    assert_eq!((unknown.value, unknown.origin), (None, Origin::Nowhere));
    assert!(unknown.trouble.is_some());
}

#[tokio::test]
async fn a_service_that_is_killed_and_restarted() {
    let service = Service::start().await;
    let flags = service.flags().build().unwrap();
    assert_eq!(checkout(&flags, &anna()).await, (json!(true), "live"));
    let at = service.kill().await;
    for _ in 0..20 {
        falls_back(&flags).await;
    }
    assert_eq!(flags.status(), ProviderStatus::STALE);
    let service = Service::start_at(at).await;
    // The breaker probes by itself; the condition is that it comes back at all.
    while checkout(&flags, &bert()).await.1 != "live" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(flags.status(), ProviderStatus::Ready);
    assert!(service.asked() > 0);
}

#[tokio::test]
async fn a_service_that_hangs_fails_lies_or_shuts_us_out() {
    for mood in [Mood::Hangs, Mood::Garbage, Mood::Fails, Mood::Limits, Mood::Forbids, Mood::CutsOff] {
        let service = Service::start().await;
        let flags = service.flags().patience(Duration::from_millis(100)).build().unwrap();
        assert_eq!(checkout(&flags, &anna()).await, (json!(true), "live"), "{mood:?}");
        service.turns(mood);
        falls_back(&flags).await;
        assert!(!flags.state().live, "{mood:?}");
    }
}

#[tokio::test]
async fn a_service_that_hangs_is_not_waited_for_again_and_again() {
    let service = Service::start().await;
    let flags = service.flags().patience(Duration::from_millis(50)).build().unwrap();
    service.turns(Mood::Hangs);
    let mut last = None;
    for _ in 0..30 {
        last = flags.evaluate("new-checkout", &anna()).await.trouble;
    }
    assert!(matches!(last, Some(Trouble::NotAsked(_))), "{last:?}");
    assert!(service.asked() < 30, "{}", service.asked());
}

#[tokio::test]
async fn a_service_that_asks_to_be_left_alone_is() {
    let service = Service::start().await;
    let flags = service.flags().build().unwrap();
    service.turns(Mood::Limits);
    let first = flags.evaluate("new-checkout", &anna()).await;
    assert_eq!(first.trouble, Some(Trouble::RateLimited { retry_after: Some(Duration::from_secs(300)) }));
    service.turns(Mood::Well);
    let asked = service.asked();
    let next = flags.evaluate("new-checkout", &anna()).await;
    assert!(matches!(next.trouble, Some(Trouble::NotAsked(_))));
    assert_eq!((next.origin, service.asked()), (Origin::Declared, asked));
}

#[tokio::test]
async fn a_flag_that_was_deleted_does_not_come_back_in_an_outage() {
    let service = Service::start().await;
    let flags = service.flags().build().unwrap();
    assert_eq!(checkout(&flags, &anna()).await, (json!(true), "live"));
    service.turns(Mood::KnowsNothing);
    assert_eq!(checkout(&flags, &anna()).await, (json!(false), "declared"));
    assert!(flags.state().live, "the service works");
    service.kill().await;
    assert_eq!(checkout(&flags, &anna()).await, (json!(false), "declared"));
}

#[tokio::test]
async fn all_flags_are_learned_at_once_and_asked_for_by_their_tag() {
    let service = Service::start().await;
    let flags = service.flags().build().unwrap();
    assert_eq!(flags.refresh(&anna()).await, Ok(5));
    assert_eq!(flags.refresh(&anna()).await, Ok(4), "one of them has no value to keep");
    assert_eq!(service.shared.unchanged.load(Ordering::SeqCst), 1);
    // What was never learned for bert can't be unchanged.
    assert_eq!(flags.refresh(&bert()).await, Ok(5));
    service.kill().await;
    assert!(matches!(flags.refresh(&anna()).await, Err(Trouble::Unreachable(_))));
    falls_back_everywhere(&flags).await;
}

async fn falls_back_everywhere(flags: &Flags) {
    let colour = flags.evaluate("colour", &anna()).await;
    assert_eq!((colour.value, colour.origin.name()), (Some(json!("blue")), "last-known-good"));
    assert_eq!(checkout(flags, &bert()).await, (json!(false), "last-known-good"));
    let left = flags.evaluate("left-to-you", &anna()).await;
    assert_eq!(left.origin, Origin::Nowhere);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_all_get_an_answer() {
    let service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let flags = service.flags().keep_in(folder.path().join("flags")).build().unwrap();
    let ask = |context: Value| {
        let flags = flags.clone();
        tokio::spawn(async move { checkout(&flags, &context).await })
    };
    let before: Vec<_> = (0..200).map(|i| (i, ask(if i % 2 == 0 { anna() } else { bert() }))).collect();
    for (i, asked) in before {
        assert_eq!(asked.await.unwrap(), (json!(i % 2 == 0), "live"));
    }
    service.kill().await;
    let after: Vec<_> = (0..200).map(|i| (i, ask(if i % 2 == 0 { anna() } else { bert() }))).collect();
    for (i, asked) in after {
        assert_eq!(asked.await.unwrap(), (json!(i % 2 == 0), "last-known-good"));
    }
    let state = flags.state();
    assert_eq!((state.from_service, state.from_memory, state.keeper.values), (200, 200, 2));
}

#[tokio::test]
async fn it_is_a_provider_whose_answers_say_where_they_come_from() {
    let service = Service::start().await;
    let flags = service.flags().declare("share", 0.0).build().unwrap();
    let context = EvaluationContext::default().with_targeting_key("anna");
    let live = flags.resolve_bool_value("new-checkout", &context).await.unwrap();
    assert_eq!(
        (live.value, live.reason, live.variant.as_deref()),
        (true, Some(EvaluationReason::TargetingMatch), Some("v"))
    );
    assert_eq!(flags.resolve_float_value("share", &context).await.unwrap().value, 0.5);
    let limits = flags.resolve_struct_value("limits", &context).await.unwrap().value;
    assert_eq!(limits.fields["items"].as_i64(), Some(99));
    let other_type = flags.resolve_int_value("colour", &context).await.unwrap_err();
    assert_eq!(other_type.code, EvaluationErrorCode::TypeMismatch);
    let unknown = flags.resolve_bool_value("unknown", &context).await.unwrap_err();
    assert_eq!(unknown.code, EvaluationErrorCode::FlagNotFound);

    service.kill().await;
    let stale = flags.resolve_bool_value("new-checkout", &context).await.unwrap();
    assert_eq!((stale.value, stale.reason), (true, Some(EvaluationReason::Other("STALE".into()))));
    let metadata = stale.flag_metadata.unwrap().values;
    assert_eq!(metadata["owner"], FlagMetadataValue::String("shop".into()));
    assert_eq!(metadata["seaworthy.cause"], FlagMetadataValue::String("unreachable".into()));
    assert!(matches!(metadata["seaworthy.ageSeconds"], FlagMetadataValue::Int(_)));
    let nobody = EvaluationContext::default();
    let declared = flags.resolve_string_value("colour", &nobody).await.unwrap();
    assert_eq!((declared.value.as_str(), declared.reason), ("grey", Some(EvaluationReason::Default)));
    assert!(
        flags.resolve_bool_value("colour", &nobody).await.is_err(),
        "no default of that type is declared"
    );
}

/// A source of the worst kind.
struct Panics;

#[async_trait]
impl Source for Panics {
    async fn evaluate(&self, flag: &str, _context: &Value) -> Result<Answer, Trouble> {
        panic!("no {flag}")
    }

    async fn evaluate_all(&self, _context: &Value, _tag: Option<&str>) -> Result<All, Trouble> {
        panic!("nothing")
    }
}

#[tokio::test]
async fn a_source_that_panics_has_failed() {
    let flags = declared(Flags::of(Panics)).build().unwrap();
    let evaluation = flags.evaluate("colour", &anna()).await;
    assert_eq!((evaluation.value, evaluation.origin), (Some(json!("grey")), Origin::Declared));
    assert_eq!(evaluation.trouble, Some(Trouble::Panicked("no colour".into())));
    assert_eq!(flags.refresh(&anna()).await, Err(Trouble::Panicked("nothing".into())));
}

/// A file that was written by a program which ended in an outage.
async fn written(file: &Path) {
    let service = Service::start().await;
    let flags = service.flags().keep_in(file).build().unwrap();
    assert_eq!(checkout(&flags, &anna()).await, (json!(true), "live"));
    flags.flush(Duration::from_secs(10)).unwrap();
}

/// Flags of a service that is not there, and what is told about the file.
fn alone(file: &Path) -> (Flags, Arc<Mutex<Vec<Notice>>>) {
    let client = OfrepClient::new("http://127.0.0.1:9").unwrap();
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = notices.clone();
    let tell = move |notice: &Notice| heard.lock().unwrap().push(notice.clone());
    (declared(Flags::of(client)).keep_in(file).on_notice(tell).build().unwrap(), notices)
}

#[tokio::test]
async fn a_restart_in_an_outage_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deeper/flags");
    written(&file).await;
    let (flags, notices) = alone(&file);
    falls_back(&flags).await;
    assert!(notices.lock().unwrap().is_empty());
    let names: Vec<_> =
        std::fs::read_dir(file.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["flags"], "nothing is left over");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_changed_is_set_aside_and_not_believed() {
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 10);
    let empty = |bytes: &mut Vec<u8>| bytes.clear();
    let lies = |bytes: &mut Vec<u8>| {
        let at = bytes.windows(4).position(|four| four == b"true").unwrap();
        bytes[at..at + 4].copy_from_slice(b"null");
    };
    let noise = |bytes: &mut Vec<u8>| *bytes = vec![0xff; 4096];
    let damages: [fn(&mut Vec<u8>); 4] = [cut, empty, lies, noise];
    for damage in damages {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flags");
        written(&file).await;
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(&file, &bytes).unwrap();

        let (flags, notices) = alone(&file);
        assert_eq!(checkout(&flags, &anna()).await, (json!(false), "declared"));
        let aside = folder.path().join("flags.damaged");
        assert!(
            matches!(&notices.lock().unwrap()[..], [Notice::SetAside { to: Some(to), .. }] if *to == aside)
        );
        assert_eq!(std::fs::read(aside).unwrap(), bytes, "what was there can be looked at");
        drop(flags);
        // And a new one takes its place.
        written(&file).await;
        assert_eq!(checkout(&alone(&file).0, &anna()).await, (json!(true), "last-known-good"));
    }
}

#[tokio::test]
async fn a_file_that_can_not_be_read_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    // Not to be read by anybody, root included: a folder.
    let file = folder.path().join("flags");
    std::fs::create_dir(&file).unwrap();
    let (flags, notices) = alone(&file);
    assert_eq!(checkout(&flags, &anna()).await, (json!(false), "declared"));
    assert!(matches!(&notices.lock().unwrap()[..], [Notice::Unreadable { .. }]));
    assert!(flags.flush(Duration::from_secs(1)).is_err());
    assert!(flags.state().keeper.trouble.is_some());
    assert!(file.is_dir());
}

#[tokio::test]
async fn a_disk_that_can_not_be_written_takes_nothing_but_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("blocked");
    std::fs::write(&blocked, "a file where a folder should be").unwrap();
    let service = Service::start().await;
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = notices.clone();
    let keeper = seaworthy::flags::KeeperConfig {
        file: Some(blocked.join("flags")),
        gather: Duration::from_millis(10),
        ..seaworthy::flags::KeeperConfig::default()
    };
    let tell = move |notice: &Notice| heard.lock().unwrap().push(notice.clone());
    let flags = service.flags().keeper(keeper).on_notice(tell).build().unwrap();
    // Below a file there is no file to read, which is not the same as there being nothing yet.
    assert_eq!(checkout(&flags, &anna()).await, (json!(true), "live"));
    assert!(flags.flush(Duration::from_secs(10)).is_err());
    assert!(flags.state().keeper.trouble.is_some());
    service.kill().await;
    assert_eq!(checkout(&flags, &anna()).await, (json!(true), "last-known-good"));
    assert_eq!(notices.lock().unwrap().len(), 1);
}

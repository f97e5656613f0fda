use http::HeaderValue;

use super::*;

const ANNA: &[u8] = br#"{"context":{"targetingKey":"anna"}}"#;
const BERT: &[u8] = br#"{"context":{"targetingKey":"bert"}}"#;

fn route() -> FlagRoute {
    let defaults = vec![
        ("new-checkout".to_owned(), json!(false)),
        ("theme".to_owned(), json!("plain")),
        ("limits".to_owned(), json!({"items": 10})),
    ];
    FlagRoute::new(defaults, None, |_| ())
}

fn question(route: &FlagRoute, path: &str) -> Question {
    route.is_ofrep(&Method::POST, path, &HeaderMap::new()).unwrap()
}

fn checkout(route: &FlagRoute) -> Question {
    question(route, "/ofrep/v1/evaluate/flags/new-checkout")
}

#[test]
fn only_the_protocols_own_requests_are_questions() {
    let route = route();
    let none = HeaderMap::new();
    assert!(route.is_ofrep(&Method::GET, "/ofrep/v1/evaluate/flags", &none).is_none());
    assert!(route.is_ofrep(&Method::POST, "/ofrep/v1/configuration", &none).is_none());
    assert!(route.is_ofrep(&Method::POST, "/ofrep/v1/evaluate/flags", &none).is_some());
}

#[test]
fn a_caller_gets_what_he_was_told_last_and_nobody_else_does() {
    let route = route();
    let question = checkout(&route);
    let live = br#"{"key":"new-checkout","value":true,"reason":"TARGETING_MATCH","variant":"on"}"#;
    assert_eq!(route.learn(&question, ANNA, StatusCode::OK, live), Lesson::Forward);

    let anna = route.fall_back(&question, ANNA, "connect");
    assert_eq!((anna.status, anna.which), (StatusCode::OK, Which::Stale));
    assert!(anna.since.is_some());
    assert_eq!((&anna.body["value"], &anna.body["reason"]), (&json!(true), &json!("STALE")));
    assert_eq!(
        (&anna.body["variant"], &anna.body["metadata"][ofrep::CAUSE]),
        (&json!("on"), &json!("connect"))
    );

    let bert = route.fall_back(&question, BERT, "connect");
    assert_eq!((bert.status, bert.which, bert.since), (StatusCode::OK, Which::Default, None));
    assert_eq!((&bert.body["value"], &bert.body["reason"]), (&json!(false), &json!("DEFAULT")));

    let key = HeaderMap::from_iter([(CREDENTIALS[1].clone(), HeaderValue::from_static("another"))]);
    let other = route.is_ofrep(&Method::POST, "/ofrep/v1/evaluate/flags/new-checkout", &key).unwrap();
    assert_eq!(route.fall_back(&other, ANNA, "connect").which, Which::Default);
}

#[test]
fn garbage_and_failures_are_not_forwarded_and_not_learned() {
    let route = route();
    let question = checkout(&route);
    let bad: [(u16, &[u8]); 6] = [
        (200, b"<html>hello</html>"),
        (200, br#"{"key":"theme","value":true}"#),
        (200, br#"{"key":"new-checkout","value":tr"#),
        (500, b""),
        (404, b"nginx: no such page"),
        (400, br#"{"key":"new-checkout","errorCode":"PARSE_ERROR"}"#),
    ];
    for (status, body) in bad {
        let lesson = route.learn(&question, ANNA, StatusCode::from_u16(status).unwrap(), body);
        assert!(matches!(lesson, Lesson::FallBack(_)), "{status}");
    }
    assert_eq!(route.snapshot().values, 0);
}

#[test]
fn what_the_service_decides_is_forwarded() {
    let route = route();
    let question = checkout(&route);
    route.learn(&question, ANNA, StatusCode::OK, br#"{"key":"new-checkout","value":true}"#);
    for status in [401, 403] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(route.learn(&question, ANNA, status, b""), Lesson::Forward);
    }
    let bad = br#"{"key":"new-checkout","errorCode":"INVALID_CONTEXT"}"#;
    assert_eq!(route.learn(&question, ANNA, StatusCode::BAD_REQUEST, bad), Lesson::Forward);
    assert_eq!(route.snapshot().values, 1);
    // A flag that was deleted does not come back in an outage.
    let gone = br#"{"key":"new-checkout","errorCode":"FLAG_NOT_FOUND"}"#;
    assert_eq!(route.learn(&question, ANNA, StatusCode::NOT_FOUND, gone), Lesson::Forward);
    assert_eq!(route.fall_back(&question, ANNA, "connect").which, Which::Default);
}

#[test]
fn all_flags_are_what_is_known_and_else_what_is_declared() {
    let route = route();
    let all = question(&route, "/ofrep/v1/evaluate/flags");
    let live = br#"{"flags":[{"key":"theme","value":"blue"},{"key":"secret","value":7}]}"#;
    assert_eq!(route.learn(&all, ANNA, StatusCode::OK, live), Lesson::Forward);
    assert_eq!(route.learn(&all, ANNA, StatusCode::NOT_MODIFIED, b""), Lesson::Forward);

    let anna = route.fall_back(&all, ANNA, "timeout");
    assert_eq!((anna.status, anna.which), (StatusCode::OK, Which::Stale));
    let told = |fallen: &Fallen| -> Vec<(Value, Value, Value)> {
        let flags = fallen.body["flags"].as_array().unwrap().iter();
        flags.map(|flag| (flag["key"].clone(), flag["value"].clone(), flag["reason"].clone())).collect()
    };
    let expected = [
        (json!("secret"), json!(7), json!("STALE")),
        (json!("theme"), json!("blue"), json!("STALE")),
        (json!("limits"), json!({"items": 10}), json!("DEFAULT")),
        (json!("new-checkout"), json!(false), json!("DEFAULT")),
    ];
    assert_eq!(told(&anna), expected);
    let bert = route.fall_back(&all, BERT, "timeout");
    assert_eq!((bert.which, told(&bert).len()), (Which::Default, 3));
    // What was learned with all flags is known of each.
    assert_eq!(
        route.fall_back(&question(&route, "/ofrep/v1/evaluate/flags/theme"), ANNA, "timeout").which,
        Which::Stale
    );
}

#[test]
fn with_nothing_to_go_by_the_error_is_honest() {
    let route = FlagRoute::new(Vec::new(), None, |_| ());
    for path in ["/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/x"] {
        let fallen = route.fall_back(&question(&route, path), ANNA, "connect");
        assert_eq!((fallen.status, fallen.which), (StatusCode::SERVICE_UNAVAILABLE, Which::Error));
        assert_eq!(fallen.body["errorCode"], "GENERAL");
        let fallen = route.fall_back(&question(&route, path), b"{", "connect");
        assert_eq!((fallen.status, fallen.which), (StatusCode::BAD_REQUEST, Which::Error));
        assert_eq!(fallen.body["errorCode"], "PARSE_ERROR");
    }
}

#[test]
fn what_is_too_large_is_not_remembered() {
    let route = route();
    let question = checkout(&route);
    let huge = vec![b' '; MOST_CONTEXT_BYTES + 1];
    let live = br#"{"key":"new-checkout","value":true}"#;
    assert_eq!(route.learn(&question, &huge, StatusCode::OK, live), Lesson::Forward);
    let huge_answer = vec![b' '; MOST_ANSWER_BYTES + 1];
    assert_eq!(route.learn(&question, ANNA, StatusCode::OK, &huge_answer), Lesson::Forward);
    assert_eq!(route.snapshot().values, 0);
    assert_eq!(route.fall_back(&question, &huge, "connect").which, Which::Default);
}

#[test]
fn a_restart_forgets_nothing() {
    let folder = std::env::temp_dir().join(format!("seaworthy-flags-{}", std::process::id()));
    let file = folder.join("flags");
    let route = FlagRoute::new(Vec::new(), Some(file.clone()), |_| ());
    let asked = checkout(&route);
    route.learn(&asked, ANNA, StatusCode::OK, br#"{"key":"new-checkout","value":true}"#);
    assert!(route.flush(Duration::from_secs(10)));
    drop(route);
    let route = FlagRoute::new(Vec::new(), Some(file), |_| ());
    assert_eq!(route.fall_back(&asked, ANNA, "connect").which, Which::Stale);
    drop(route);
    std::fs::remove_dir_all(folder).unwrap();
}

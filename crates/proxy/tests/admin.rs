//! What operators see and can do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use common::{Client, Running, Upstream, answer, eventually, ok};

fn operator(proxy: &Running) -> Client {
    Client::connect(proxy.admin.unwrap())
}

fn ask(proxy: &Running, path: &str) -> common::Reply {
    let mut client = operator(proxy);
    client.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    client.reply()
}

fn order(proxy: &Running, path: &str, headers: &str, body: &str) -> common::Reply {
    let mut client = operator(proxy);
    let length = body.len();
    client.send(format!("POST {path} HTTP/1.1\r\ncontent-length: {length}\r\n{headers}\r\n{body}"));
    client.reply()
}

const JSON: &str = "host: localhost\r\ncontent-type: application/json\r\n";

#[test]
fn metrics_add_up_what_happened() {
    let upstream =
        Upstream::answering(|head, _| if head.contains("/bad") { answer(500, "", "") } else { ok("") });
    let proxy = Running::before(&[upstream.address], "retry.mode = \"off\"");
    let mut client = proxy.client();
    for path in ["/", "/", "/bad"] {
        client.get(path);
    }
    let metrics = ask(&proxy, "/metrics");
    let has = |line: &str| metrics.text().lines().any(|l| l == line);
    let route = "/";
    assert!(
        has(&format!("seaworthy_requests_total{{route=\"{route}\",status=\"2xx\"}} 2")),
        "{}",
        metrics.text()
    );
    assert!(has(&format!("seaworthy_requests_total{{route=\"{route}\",status=\"5xx\"}} 1")));
    assert!(has(&format!("seaworthy_request_seconds_count{{route=\"{route}\"}} 3")));
    let endpoint = format!("upstream=\"app\",endpoint=\"{}\"", upstream.address);
    assert!(has(&format!("seaworthy_attempts_total{{{endpoint},outcome=\"success\"}} 2")));
    assert!(has(&format!("seaworthy_attempts_total{{{endpoint},outcome=\"error\"}} 1")));
    assert!(has(&format!("seaworthy_upstream_connections_total{{{endpoint}}} 1")));
    assert!(has(&format!("seaworthy_breaker_state{{{endpoint},state=\"closed\"}} 1")));
    assert!(has("seaworthy_limit_max_in_flight{upstream=\"app\"} 1024"));
    assert!(has("seaworthy_connections 1"));
}

#[test]
fn a_breaker_that_is_forced_open_refuses_and_says_why() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    let done = order(&proxy, "/api/breaker", JSON, r#"{"upstream":"app","force":"open"}"#);
    assert_eq!(done.status, 200, "{}", done.text());
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-why: 1\r\n\r\n");
    let refused = client.reply();
    assert_eq!(refused.status, 503);
    assert!(refused.header("x-seaworthy-why").unwrap().contains("forced open"), "{}", refused.head);
    assert!(refused.text().contains("forced open"), "{}", refused.text());
    order(&proxy, "/api/breaker", JSON, r#"{"upstream":"app","force":"none"}"#);
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_policy_can_be_set_to_observe_while_it_runs() {
    let upstream = Upstream::answering(|_, _| answer(500, "", ""));
    let proxy =
        Running::before(&[upstream.address], "retry.mode = \"off\"\nbreaker.consecutive_failures = 1");
    let mut client = proxy.client();
    let done = order(&proxy, "/api/mode", JSON, r#"{"upstream":"app","policy":"breaker","mode":"observe"}"#);
    assert_eq!(done.status, 200, "{}", done.text());
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 500);
    }
    let state = ask(&proxy, "/api/state");
    assert!(state.text().contains("\"mode\": \"observe\""), "{}", state.text());
    order(&proxy, "/api/mode", JSON, r#"{"upstream":"app","policy":"breaker","mode":"enforce"}"#);
    client.get("/");
    eventually("the breaker refuses", || client.get("/").status == 503);
}

#[test]
fn retries_can_be_switched_on_while_it_runs() {
    let failed_once = std::sync::atomic::AtomicBool::new(false);
    let upstream = Upstream::answering(move |_, _| {
        let again = failed_once.fetch_xor(true, std::sync::atomic::Ordering::SeqCst);
        if again { ok("") } else { answer(500, "", "") }
    });
    let proxy = Running::before(&[upstream.address], "retry.mode = \"off\"");
    let mut client = proxy.client();
    assert_eq!([client.get("/").status, client.get("/").status], [500, 200]);
    order(&proxy, "/api/mode", JSON, r#"{"upstream":"app","policy":"retry","mode":"enforce"}"#);
    assert_eq!([client.get("/").status, client.get("/").status], [200, 200]);
}

#[test]
fn orders_from_pages_elsewhere_are_refused() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let body = r#"{"upstream":"app","force":"open"}"#;
    for headers in [
        "host: evil.example\r\ncontent-type: application/json\r\n",
        "host: localhost\r\norigin: http://evil.example\r\ncontent-type: application/json\r\n",
        "content-type: application/json\r\n",
    ] {
        assert_eq!(order(&proxy, "/api/breaker", headers, body).status, 403, "{headers}");
    }
    assert_eq!(
        order(&proxy, "/api/breaker", "host: localhost\r\ncontent-type: text/plain\r\n", body).status,
        415
    );
    assert_eq!(proxy.client().get("/").status, 200);
}

#[test]
fn orders_that_make_no_sense_say_so() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    for (path, body, said) in [
        ("/api/breaker", "{", "not JSON"),
        ("/api/breaker", "[]", "upstream must be a string"),
        ("/api/breaker", r#"{"upstream":"x","force":"open"}"#, "no upstream"),
        ("/api/breaker", r#"{"upstream":"app","force":"ajar"}"#, "ajar"),
        ("/api/breaker", r#"{"upstream":"app","endpoint":"h:1","force":"open"}"#, "no endpoint"),
        ("/api/mode", r#"{"upstream":"app","policy":"luck","mode":"off"}"#, "luck"),
    ] {
        let reply = order(&proxy, path, JSON, body);
        assert!((400..500).contains(&reply.status), "{}", reply.head);
        assert!(reply.text().contains(said), "{}", reply.text());
    }
    assert_eq!(ask(&proxy, "/api/breaker").status, 405);
    assert_eq!(ask(&proxy, "/nothing").status, 404);
}

#[test]
fn every_policy_can_be_switched_to_observe_while_it_runs() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    for policy in ["breaker", "limit", "bulkhead", "timeout", "retry", "hedge"] {
        let body = format!(r#"{{"upstream":"app","policy":"{policy}","mode":"observe"}}"#);
        assert_eq!(order(&proxy, "/api/mode", JSON, &body).status, 200, "{policy}");
    }
    let state = ask(&proxy, "/api/state");
    assert_eq!(state.text().matches("\"mode\": \"observe\"").count(), 6, "{}", state.text());
    assert_eq!(proxy.client().get("/").status, 200);
}

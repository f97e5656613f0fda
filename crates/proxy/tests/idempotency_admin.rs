//! What operators see of idempotency keys, and what they can do about them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Client, Reply, Running, Upstream, answer};
use serde_json::{Value, json};

/// An upstream that breaks off where the path says so, and counts otherwise; and a proxy before it.
fn shop(more: &str) -> (Running, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let count = asked.clone();
    let upstream = Upstream::serving(move |_, mut conn| {
        while let Some((head, body)) = conn.request() {
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            if head.starts_with("POST /orders/break") && n == 1 {
                return;
            }
            let headers = "location: /orders/7\r\nset-cookie: s=1\r\n";
            conn.send(answer(201, headers, &format!("{n}:{}", String::from_utf8_lossy(&body))));
        }
    });
    let proxy = Running::start(&format!(
        "[idempotency]\nstore = \"memory\"\n{more}\n[upstream.app]\nendpoints = \"http://{}\"\nbreaker.mode = \"off\"\n\
         deadline = \"5s\"\n[[route]]\nname = \"orders\"\npath = \"/orders\"\nupstream = \"app\"\n\
         client_key = \"header:x-client\"\n[route.idempotency]\n\
         [[route]]\nname = \"the rest\"\nupstream = \"app\"\n[route.idempotency]\n",
        upstream.address
    ));
    (proxy, asked)
}

fn post(proxy: &Running, path: &str, key: &str) -> Reply {
    proxy.client().request("POST", path, &format!("idempotency-key: {key}\r\n"), b"a")
}

fn ask(proxy: &Running, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut client = Client::connect(proxy.admin.unwrap());
    let length = body.len();
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    ));
    let reply = client.reply();
    (reply.status, serde_json::from_str(reply.text()).unwrap())
}

fn get(proxy: &Running, path: &str) -> Value {
    let (status, value) = ask(proxy, "GET", path, "");
    assert_eq!(status, 200, "{value}");
    value
}

/// An order to release `row`, which was listed.
fn order(row: &Value, reason: &str) -> Value {
    json!({ "place": row["place"], "client": row["client"], "key": row["key"], "token": row["token"], "reason": reason })
}

fn release(proxy: &Running, order: &Value) -> (u16, Value) {
    ask(proxy, "POST", "/api/keys/release", &order.to_string())
}

#[test]
fn what_is_kept_is_listed_page_by_page_and_without_bodies() {
    let (proxy, _) = shop("");
    for n in 0..7 {
        post(&proxy, "/orders", &format!("key/{n}"));
    }
    let (mut seen, mut from) = (Vec::new(), String::new());
    loop {
        let page = get(&proxy, &format!("/api/keys?most=3{from}"));
        assert_eq!(page["store"], "memory");
        let rows = page["keys"].as_array().unwrap();
        assert!(rows.len() <= 3, "{page}");
        seen.extend(rows.iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        from = format!("&from={}", escaped(next));
    }
    let mut keys: Vec<_> = seen.iter().map(|row| row["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["key/0", "key/1", "key/2", "key/3", "key/4", "key/5", "key/6"]);
    for row in &seen {
        assert_eq!(
            (&row["place"], &row["phase"], &row["token"]),
            (&json!("orders"), &json!("done"), &json!(1))
        );
        assert_eq!(row["answer"], json!({ "status": 201, "body_bytes": 3, "body_kept": true }));
        assert!(row["changed"].as_str().unwrap().ends_with('Z'));
        // A day's retention less what is left of it.
        let (age, left) = (row["age_s"].as_u64().unwrap(), row["remembered_s"].as_u64().unwrap());
        assert!(row["age_by"] == "store" && [86_399, 86_400].contains(&(age + left)), "{row}");
        assert_eq!((&row["orphaned"], &row["past_lease"]), (&json!(false), &json!(false)));
        assert!((1..=86_400).contains(&row["remembered_s"].as_u64().unwrap()), "{row}");
    }
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn a_listing_is_of_one_place_or_phase_if_wanted() {
    let (proxy, _) = shop("");
    assert_eq!(post(&proxy, "/orders/break", "lost").status, 502);
    post(&proxy, "/orders", "a");
    post(&proxy, "/other", "b");
    let keys = |query: &str| {
        let page = get(&proxy, &format!("/api/keys?{query}"));
        let rows = page["keys"].as_array().unwrap().clone();
        let mut keys: Vec<_> = rows.iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys("place=the%20rest"), ["b"]);
    assert_eq!(keys("phase=unknown"), ["lost"]);
    assert_eq!(keys("place=orders&phase=done"), ["a"]);
    assert_eq!(keys("place=nowhere"), Vec::<String>::new());
}

#[test]
fn one_key_is_shown_with_the_headers_that_are_kept() {
    let (proxy, _) = shop("");
    post(&proxy, "/orders", "\"a b/c?%\"");
    let row = &get(&proxy, "/api/keys")["keys"][0];
    let part = |name: &str| escaped(row[name].as_str().unwrap());
    let path = format!("/api/key?place={}&client={}&key={}", part("place"), part("client"), part("key"));
    let shown = get(&proxy, &path);
    assert_eq!(shown["id"], format!("orders/{}/a b/c?%", row["client"].as_str().unwrap()));
    assert_eq!(shown["answer"]["headers"], json!([["location", "/orders/7"]]));
    assert_eq!(shown["answer"]["body_bytes"], 3);
    assert!(!shown.to_string().contains("1:a"), "the body is the client's: {shown}");
    let (status, problem) = ask(&proxy, "GET", &format!("{path}x"), "");
    assert_eq!((status, problem["detail"].as_str().unwrap().contains("nothing is kept")), (404, true));
}

#[test]
fn what_is_unknown_can_be_released_and_that_is_written_down() {
    let (proxy, asked) = shop("");
    assert_eq!(post(&proxy, "/orders/break", "k").status, 502);
    assert_eq!(post(&proxy, "/orders/break", "k").status, 409);
    let row = get(&proxy, "/api/keys")["keys"][0].clone();
    assert_eq!((&row["phase"], &row["answer"]), (&json!("unknown"), &Value::Null));
    let (status, told) = release(&proxy, &order(&row, " the bank has no trace of it "));
    assert_eq!((status, &told["phase"]), (200, &json!("unknown")), "{told}");
    assert_eq!(get(&proxy, "/api/keys")["keys"][0]["phase"], "free");

    let again = post(&proxy, "/orders/break", "k");
    assert_eq!((again.status, again.text(), asked.load(Ordering::SeqCst)), (201, "2:a", 2));
    assert_eq!(get(&proxy, "/api/keys")["keys"][0]["token"], 2, "the token goes on growing");

    let done = get(&proxy, "/api/keys")["keys"][0].clone();
    assert_eq!(release(&proxy, &order(&done, "a test")).0, 200);
    let audit = get(&proxy, "/api/releases");
    let audit = audit["releases"].as_array().unwrap();
    let said: Vec<_> =
        audit.iter().map(|r| [&r["reason"], &r["phase"]].map(|v| v.as_str().unwrap())).collect();
    assert_eq!(said, [["a test", "done"], ["the bank has no trace of it", "unknown"]], "newest first");
    assert_eq!(get(&proxy, "/api/releases?most=1")["releases"].as_array().unwrap().len(), 1);
}

#[test]
fn what_moved_on_is_not_released() {
    let (proxy, _) = shop("");
    post(&proxy, "/orders", "k");
    let row = get(&proxy, "/api/keys")["keys"][0].clone();
    let mut stale = order(&row, "why");
    stale["token"] = json!(7);
    let (status, problem) = release(&proxy, &stale);
    assert_eq!(status, 409);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("under token 7") && detail.contains("done under token 1"), "{detail}");
    assert_eq!(post(&proxy, "/orders", "k").header("idempotent-replayed"), Some("true"), "nothing was lost");
    assert_eq!(get(&proxy, "/api/releases")["releases"], json!([]));
}

#[test]
fn orders_that_make_no_sense_say_so() {
    let (proxy, _) = shop("");
    post(&proxy, "/orders", "k");
    let row = get(&proxy, "/api/keys")["keys"][0].clone();
    let right = order(&row, "why");
    for (name, value, status, said) in [
        ("reason", json!(""), 422, "reason must be 1 to 1000 bytes"),
        ("reason", json!("  "), 422, "reason must be"),
        ("reason", json!("x".repeat(1001)), 422, "reason must be"),
        ("reason", Value::Null, 422, "reason must be a string"),
        ("token", json!("1"), 422, "token must be a number"),
        ("place", json!(1), 422, "place must be a string"),
        ("key", json!("other"), 404, "nothing is kept"),
    ] {
        let mut order = right.clone();
        order[name] = value;
        let (told, problem) = release(&proxy, &order);
        assert_eq!(told, status, "{order}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    }
    for (path, said) in [
        ("/api/keys?most=0", "most must be a number from 1 to 200"),
        ("/api/keys?most=1000", "most must be"),
        ("/api/keys?phase=lost", "running, unknown, free or done"),
        ("/api/keys?place=%ff", "not UTF-8"),
        ("/api/key?place=orders", "client is missing"),
        ("/api/releases?most=x", "most must be"),
    ] {
        let (status, problem) = ask(&proxy, "GET", path, "");
        assert_eq!(status, 422, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    }
    assert_eq!(ask(&proxy, "GET", "/api/keys/release", "").0, 405);
}

#[test]
fn what_is_wrong_with_the_store_is_told_to_operators() {
    let (proxy, _) = shop("");
    let (status, problem) = ask(&proxy, "GET", "/api/keys?from=nonsense", "");
    assert_eq!(status, 503);
    assert!(problem["detail"].as_str().unwrap().contains("nonsense"), "{problem}");
}

#[test]
fn without_a_store_there_is_nothing_to_see() {
    let proxy = Running::before(&[Upstream::echo().address], "");
    for path in ["/api/keys", "/api/key?place=a&client=b&key=c", "/api/releases"] {
        let (status, problem) = ask(&proxy, "GET", path, "");
        assert_eq!(status, 404);
        assert!(problem["detail"].as_str().unwrap().contains("no table [idempotency]"), "{problem}");
    }
    assert_eq!(release(&proxy, &json!({})).0, 404);
    let state = get(&proxy, "/api/state");
    assert_eq!((&state["idempotency"], &state["routes"][0]["idempotency"]), (&Value::Null, &Value::Null));
}

#[test]
fn what_became_of_requests_with_keys_is_counted() {
    let (proxy, _) = shop("");
    for _ in 0..3 {
        post(&proxy, "/orders", "k");
    }
    let state = get(&proxy, "/api/state");
    assert_eq!(state["idempotency"], json!({ "store": "memory" }));
    let orders = state["routes"].as_array().unwrap().iter().find(|route| route["name"] == "orders").unwrap();
    let seen = &orders["idempotency"];
    assert_eq!((&seen["counts"]["begun"], &seen["counts"]["replayed"]), (&json!(1), &json!(2)));
    assert_eq!(
        (&seen["keep"], &seen["unknown"], &seen["busy_wait_ms"]),
        (&json!("definite"), &json!("refuse"), &json!(0))
    );
    assert_eq!((&seen["methods"], &seen["retention_s"]), (&json!(["POST", "PATCH"]), &json!(86_400.0)));

    let mut client = Client::connect(proxy.admin.unwrap());
    client.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let metrics = client.reply();
    let count = |route: &str, result: &str| {
        let start = format!("seaworthy_idempotency_total{{route=\"{route}\",result=\"{result}\"}} ");
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start}")).parse::<u64>().unwrap()
    };
    assert_eq!(
        [count("orders", "begun"), count("orders", "replayed"), count("the rest", "begun")],
        [1, 2, 0]
    );
}

#[test]
fn what_the_embedded_store_does_is_measured() {
    let data = tempfile::tempdir().unwrap();
    let upstream = Upstream::answering(|_, _| answer(201, "", "done"));
    let proxy = Running::start(&format!(
        "data = \"{}\"\n[idempotency]\n[upstream.app]\nendpoints = \"http://{}\"\ndeadline = \"5s\"\n\
         [[route]]\nupstream = \"app\"\n[route.idempotency]\n",
        data.path().display(),
        upstream.address
    ));
    post(&proxy, "/", "k");
    let metrics = Client::connect(proxy.admin.unwrap()).get_as("/metrics", "localhost");
    let value = |name: &str| {
        let start = format!("seaworthy_idempotency_file_{name} ");
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start}")).parse::<u64>().unwrap()
    };
    assert!(value("steps_total") >= 2, "it was begun and settled");
    assert!(value("commits_total") >= 1);
    let file = std::fs::metadata(data.path().join("idempotency.redb")).unwrap();
    assert_eq!(value("bytes"), file.len());
    assert_eq!((value("damaged_total"), value("quarantined_total")), (0, 0));
    assert!(metrics.text().contains("seaworthy_idempotency_store_up 1\n"));
}

/// The value of a metric without labels, if there is one.
fn metric(proxy: &Running, name: &str) -> Option<String> {
    let metrics = Client::connect(proxy.admin.unwrap()).get_as("/metrics", "localhost");
    let start = format!("{name} ");
    metrics.text().lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
}

#[test]
fn a_full_memory_is_not_up_until_something_can_be_kept_again() {
    let (proxy, _) = shop("records = 1");
    assert_eq!(post(&proxy, "/orders", "first").status, 201);
    assert_eq!(metric(&proxy, "seaworthy_idempotency_store_up").as_deref(), Some("1"));
    assert_eq!(post(&proxy, "/orders", "second").status, 503);
    assert_eq!(metric(&proxy, "seaworthy_idempotency_store_up").as_deref(), Some("0"));
    assert_eq!(post(&proxy, "/orders", "first").header("idempotent-replayed"), Some("true"));
    assert_eq!(metric(&proxy, "seaworthy_idempotency_store_up").as_deref(), Some("0"), "that was only read");
}

#[test]
fn whether_redis_answers_is_told_by_who_asks_it() {
    let start = |rest: &str| {
        Running::start(&format!(
            "[redis]\nurl = \"redis://127.0.0.1:1\"\n{rest}[upstream.app]\nendpoints = \"http://127.0.0.1:1\"\ndeadline = \"5s\"\n\
             [[route]]\nupstream = \"app\"\n"
        ))
    };
    let keys = start("[idempotency]\nstore = \"redis\"\n");
    assert_eq!(metric(&keys, "seaworthy_redis_up"), None);
    assert_eq!(metric(&keys, "seaworthy_idempotency_store_up").as_deref(), Some("0"));
    let rates = start("[rate]\ncalls = 1\nper = \"1s\"\nstore = \"redis\"\n");
    assert!(metric(&rates, "seaworthy_redis_up").is_some());
    assert_eq!(metric(&rates, "seaworthy_idempotency_store_up"), None);
}

//! What happens when there is too much to do, and what answers when it can't be done.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use common::{Client, Running, Upstream, answer, eventually, header, ok};
use std::net::SocketAddr;

/// A proxy before one upstream, with its route's and its own settings.
fn proxy(upstream: SocketAddr, top: &str, policies: &str, route: &str) -> Running {
    Running::start(&format!(
        "{top}\n[upstream.app]\nendpoints = \"http://{upstream}\"\n{policies}\n[[route]]\nupstream = \"app\"\n{route}\n"
    ))
}

/// An upstream that answers each request when it is told to, and tells which came, in order.
fn on_demand() -> (Upstream, Sender<()>, Arc<Mutex<Vec<String>>>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let came = Arc::new(Mutex::new(Vec::new()));
    let seen = came.clone();
    let upstream = Upstream::answering(move |head, _| {
        seen.lock().unwrap().push(head.split(' ').nth(1).unwrap().to_owned());
        // A test that is over has nobody to tell.
        let _ = wait.lock().unwrap().recv();
        ok("done")
    });
    (upstream, go, came)
}

fn waiting(proxy: &Running, criticality: &str) -> u64 {
    let line = format!("seaworthy_queue_waiting{{upstream=\"app\",criticality=\"{criticality}\"}} ");
    let metrics = Client::connect(proxy.admin.unwrap()).get_as("/metrics", "localhost");
    let value = metrics.text().lines().find_map(|text| text.strip_prefix(&line)).unwrap().to_owned();
    value.parse().unwrap()
}

fn ask(proxy: &Running, path: &str, headers: &str) -> Client {
    let mut client = proxy.client();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-seaworthy-why: 1\r\n{headers}\r\n"));
    client
}

#[test]
fn what_matters_more_goes_first_whoever_came_first() {
    let (upstream, go, came) = on_demand();
    let proxy = proxy(upstream.address, "", "limit.max_in_flight = 1\nlimit.queue.max_wait = \"1m\"", "");
    let mut clients = vec![ask(&proxy, "/first", "")];
    eventually("the first is there", || came.lock().unwrap().len() == 1);
    for (path, criticality) in [("/low", "sheddable"), ("/mid", "sheddable-plus"), ("/high", "critical")] {
        clients.push(ask(&proxy, path, &format!("x-seaworthy-criticality: {criticality}\r\n")));
        eventually("it waits", || waiting(&proxy, criticality) == 1);
    }
    clients.iter().for_each(|_| go.send(()).unwrap());
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    assert_eq!(*came.lock().unwrap(), ["/first", "/high", "/mid", "/low"]);
}

#[test]
fn a_waiting_call_whose_caller_leaves_takes_nobodys_place() {
    let (upstream, go, came) = on_demand();
    let proxy = proxy(upstream.address, "", "limit.max_in_flight = 1\nlimit.queue.max_wait = \"1m\"", "");
    let mut first = ask(&proxy, "/first", "");
    eventually("the first is there", || came.lock().unwrap().len() == 1);
    let gone = ask(&proxy, "/gone", "");
    eventually("it waits", || waiting(&proxy, "critical") == 1);
    drop(gone);
    eventually("it has left", || waiting(&proxy, "critical") == 0);
    let mut last = ask(&proxy, "/last", "");
    eventually("the last waits", || waiting(&proxy, "critical") == 1);
    (0..2).for_each(|_| go.send(()).unwrap());
    assert_eq!((first.reply().status, last.reply().status), (200, 200));
    assert_eq!(*came.lock().unwrap(), ["/first", "/last"]);
}

#[test]
fn a_full_queue_gives_up_what_matters_least() {
    let (upstream, go, came) = on_demand();
    let policies = "limit.max_in_flight = 1\nlimit.queue = { size = 1, max_wait = \"1m\" }";
    let proxy = proxy(upstream.address, "", policies, "");
    let mut first = ask(&proxy, "/first", "");
    eventually("the first is there", || came.lock().unwrap().len() == 1);
    let mut low = ask(&proxy, "/low", "x-seaworthy-criticality: sheddable\r\n");
    eventually("the low waits", || waiting(&proxy, "sheddable") == 1);
    let mut high = ask(&proxy, "/high", "");
    let refused = low.reply();
    assert_eq!(refused.status, 503, "{}", refused.head);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(
        refused.header("x-seaworthy-why").unwrap().contains("another call took its place"),
        "{}",
        refused.head
    );
    assert!(refused.text().contains("\"title\":\"Service Unavailable\""), "{}", refused.text());
    (0..2).for_each(|_| go.send(()).unwrap());
    assert_eq!((first.reply().status, high.reply().status), (200, 200));
}

#[test]
fn nobody_waits_longer_than_he_has_time() {
    let (upstream, go, came) = on_demand();
    let proxy = proxy(upstream.address, "", "limit.max_in_flight = 1\nlimit.queue.max_wait = \"1m\"", "");
    let mut first = ask(&proxy, "/first", "");
    eventually("the first is there", || came.lock().unwrap().len() == 1);
    let late = ask(&proxy, "/late", "x-seaworthy-timeout-ms: 50\r\n").reply();
    assert_eq!(late.status, 504, "{}", late.head);
    assert!(late.header("x-seaworthy-why").unwrap().contains("rejected by queue"), "{}", late.head);
    go.send(()).unwrap();
    assert_eq!(first.reply().status, 200);
    assert_eq!(came.lock().unwrap().len(), 1, "it was never sent");
}

#[test]
fn a_caller_can_lower_what_its_call_matters_and_raise_it_only_where_it_is_trusted() {
    let upstream =
        Upstream::answering(|head, _| ok(header(head, "x-seaworthy-criticality").unwrap_or("none")));
    let told = |route: &str, headers: &str| {
        let proxy =
            proxy(upstream.address, "[[client]]\nkey = \"batch\"\ncriticality = \"sheddable\"", "", route);
        proxy.client().request("GET", "/", headers, b"").text().to_owned()
    };
    assert_eq!(told("", ""), "critical");
    assert_eq!(told("", "x-seaworthy-criticality: sheddable\r\n"), "sheddable");
    assert_eq!(told("", "x-seaworthy-criticality: critical-plus\r\n"), "critical");
    assert_eq!(
        told("trust_criticality = true", "X-Seaworthy-Criticality: CRITICAL_PLUS\r\n"),
        "critical-plus"
    );
    assert_eq!(told("criticality = \"sheddable-plus\"", ""), "sheddable-plus");
    assert_eq!(told("client_key = \"header:x-key\"", "x-key: batch\r\n"), "sheddable");
    let proxy = proxy(upstream.address, "", "", "");
    let bad = proxy.client().request("GET", "/", "x-seaworthy-criticality: very\r\n", b"");
    assert_eq!(bad.status, 400);
    assert!(bad.text().contains("x-seaworthy-criticality is none of"), "{}", bad.text());
}

#[test]
fn a_client_beyond_its_rate_is_told_when_to_come_back_and_the_others_are_served() {
    let upstream = Upstream::echo();
    let route = "client_key = \"header:x-key\"\nrate = { calls = 1, per = \"1m\", burst = 2 }";
    let proxy = proxy(upstream.address, "", "", route);
    let status = |key: &str| proxy.client().request("GET", "/", &format!("x-key: {key}\r\n"), b"");
    assert_eq!((status("a").status, status("a").status), (200, 200));
    let refused = status("a");
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    assert!(refused.text().contains("more calls came than the rate allows"), "{}", refused.text());
    assert_eq!(status("b").status, 200);
}

#[test]
fn an_upstream_that_refuses_is_asked_less() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let upstream = Upstream::answering(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        answer(429, "retry-after: 7\r\n", "")
    });
    let policies = "retry.attempts = 1\nbreaker.mode = \"off\"\nthrottle.probes_per_second = 1";
    let proxy = proxy(upstream.address, "", policies, "");
    let mut client = proxy.client();
    let mut throttled = None;
    eventually("a call is not sent", || {
        let reply = client.get("/");
        throttled = Some(reply).filter(|reply| reply.status == 503);
        throttled.is_some()
    });
    let reply = throttled.unwrap();
    assert!(reply.text().contains("throttle: the upstream refuses so many calls"), "{}", reply.text());
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=7).contains(&wait), "{wait}");
    let before = asked.load(Ordering::SeqCst);
    let passed = (0..200).filter(|_| client.get("/").status == 429).count();
    assert!(passed < 100, "{passed} of 200 were sent");
    assert_eq!(asked.load(Ordering::SeqCst) - before, passed);
}

#[test]
fn another_upstream_answers_and_the_answer_says_so() {
    let broken = Upstream::answering(|_, _| answer(500, "", "broken"));
    let popular = Upstream::answering(|head, _| ok(head.split(' ').nth(1).unwrap()));
    let proxy = Running::start(&format!(
        "[upstream.best]\nendpoints = \"http://{}\"\n[upstream.popular]\nendpoints = \"http://{}\"\n\
         [[route]]\nupstream = \"best\"\n[route.substitute]\nupstream = \"popular\"\npath = \"/top\"\n\
         [[route]]\npath = \"/popular\"\nupstream = \"popular\"\n",
        broken.address, popular.address
    ));
    let reply = proxy.client().get("/for/me?n=3");
    assert_eq!((reply.status, reply.text()), (200, "/top?n=3"));
    let degraded = reply.header("x-seaworthy-degraded").unwrap();
    assert!(degraded.starts_with("upstream; reason=\"was answered with an error\"; since=\""), "{degraded}");
    let again = proxy.client().get("/for/me");
    let since = |text: &str| text.split("since=").nth(1).unwrap().to_owned();
    assert_eq!(since(again.header("x-seaworthy-degraded").unwrap()), since(degraded), "since the first");
    let metrics = Client::connect(proxy.admin.unwrap()).get_as("/metrics", "localhost");
    assert!(
        metrics.text().contains("seaworthy_degraded_total{route=\"/\",with=\"upstream\"} 2"),
        "{}",
        metrics.text()
    );
}

#[test]
fn with_nothing_left_the_error_is_honest() {
    let broken = Upstream::answering(|_, _| answer(500, "", "broken"));
    let proxy = Running::start(&format!(
        "[upstream.best]\nendpoints = \"http://{0}\"\n[upstream.popular]\nendpoints = \"http://{0}\"\n\
         [[route]]\nupstream = \"best\"\n[route.substitute]\nupstream = \"popular\"\n\
         [[route]]\npath = \"/popular\"\nupstream = \"popular\"\n",
        broken.address
    ));
    let reply = proxy.client().get("/");
    assert_eq!(reply.status, 503, "{}", reply.head);
    assert_eq!(reply.header("x-seaworthy-degraded"), None);
    assert!(reply.text().contains("nothing to answer with instead"), "{}", reply.text());
}

#[test]
fn a_body_that_is_too_long_is_refused_announced_or_not() {
    let upstream = Upstream::echo();
    let proxy = proxy(upstream.address, "[limits]\nbody_bytes = \"1KiB\"", "", "");
    assert_eq!(proxy.client().request("PUT", "/", "", &[b'x'; 1024]).status, 200);
    assert_eq!(proxy.client().request("PUT", "/", "", &[b'x'; 1025]).status, 413);
    let mut client = proxy.client();
    client.send("PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(format!("400\r\n{0}\r\n400\r\n{0}\r\n", "x".repeat(1024)));
    assert_eq!(client.reply().status, 413);
}

#[test]
fn listeners_and_routes_have_limits_of_their_own() {
    let (upstream, go, came) = on_demand();
    for (top, route, place) in [
        ("[limit]\nmax_in_flight = 1\nqueue.size = 0", "", "listener"),
        ("", "limit = { max_in_flight = 1, queue = { size = 0 } }", "route"),
    ] {
        let before = came.lock().unwrap().len();
        let proxy = proxy(upstream.address, top, "", route);
        let mut first = ask(&proxy, "/", "");
        eventually("the first is there", || came.lock().unwrap().len() > before);
        let refused = ask(&proxy, "/", "").reply();
        assert_eq!(refused.status, 503, "{place}: {}", refused.head);
        go.send(()).unwrap();
        assert_eq!(first.reply().status, 200);
        let metrics = Client::connect(proxy.admin.unwrap()).get_as("/metrics", "localhost");
        let line = format!("seaworthy_limit_rejected_total{{{place}=");
        let line = metrics.text().lines().find(|text| text.starts_with(&line)).unwrap().to_owned();
        assert!(line.ends_with("} 1"), "{line}");
    }
}

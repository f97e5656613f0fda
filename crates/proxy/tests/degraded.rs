//! What answers while an upstream has no answer: what it said last, and what is known of its flags.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Client, Reply, Running, Upstream, answer, eventually, header};

/// An upstream that can be broken, with how often it was asked.
struct Origin {
    upstream: Upstream,
    broken: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

fn origin(says: impl Fn(&str) -> String + Send + Sync + 'static) -> Origin {
    let (broken, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let (is_broken, count) = (broken.clone(), asked.clone());
    let upstream = Upstream::answering(move |head, _| {
        count.fetch_add(1, Ordering::SeqCst);
        if is_broken.load(Ordering::SeqCst) { answer(500, "", "broken") } else { says(head) }
    });
    Origin { upstream, broken, asked }
}

fn proxy(origin: &Origin, stale: &str) -> Running {
    Running::start(&format!(
        "[upstream.app]\nendpoints = \"http://{}\"\nretry.attempts = 1\nbreaker.mode = \"off\"\n\
         [[route]]\nupstream = \"app\"\n[route.stale]\n{stale}\n",
        origin.upstream.address
    ))
}

fn get(proxy: &Running, path: &str, headers: &str) -> Reply {
    proxy.client().request("GET", path, headers, b"")
}

#[test]
fn a_fresh_answer_is_served_without_asking() {
    let origin = origin(|_| answer(200, "cache-control: max-age=60\r\n", "hello"));
    let proxy = proxy(&origin, "");
    assert_eq!(get(&proxy, "/", "").text(), "hello");
    let kept = get(&proxy, "/", "");
    assert_eq!((kept.status, kept.text()), (200, "hello"));
    assert!(kept.header("cache-status").unwrap().starts_with("seaworthy; hit"), "{}", kept.head);
    assert!(kept.header("age").is_some(), "{}", kept.head);
    assert_eq!(kept.header("x-seaworthy-degraded"), None);
    assert_eq!(origin.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn the_last_good_answer_stands_in_for_an_error_and_says_so() {
    let origin = origin(|_| {
        answer(200, "cache-control: max-age=0\r\ncontent-type: application/json\r\n", "{\"n\":1}")
    });
    let proxy = proxy(&origin, "within = \"1h\"\nfield = \"last_updated\"");
    assert_eq!(get(&proxy, "/prices", "").text(), "{\"n\":1}");
    origin.broken.store(true, Ordering::SeqCst);
    let stale = get(&proxy, "/prices", "");
    assert_eq!(stale.status, 200, "{} {}", stale.head, stale.text());
    let degraded = stale.header("x-seaworthy-degraded").unwrap();
    assert!(degraded.starts_with("stale; reason=\"was answered with an error\"; since="), "{degraded}");
    assert!(stale.header("x-seaworthy-last-updated").is_some(), "{}", stale.head);
    assert!(stale.text().contains("\"last_updated\":\"20"), "{}", stale.text());
    assert!(stale.header("age").is_some());
    let head = {
        let mut client = proxy.client();
        client.send("HEAD /prices HTTP/1.1\r\nhost: test\r\n\r\n");
        client.head()
    };
    assert_eq!(head.status, 200, "{}", head.head);
    assert!(head.header("x-seaworthy-degraded").is_some());
    assert_eq!(get(&proxy, "/other", "").status, 503, "nothing is known of it");
    origin.broken.store(false, Ordering::SeqCst);
    assert_eq!(get(&proxy, "/prices", "").header("x-seaworthy-degraded"), None);
}

#[test]
fn an_origin_that_is_gone_or_hangs_is_stood_in_for_as_well() {
    let origin = origin(|_| answer(200, "cache-control: max-age=0\r\n", "good"));
    let proxy = Running::start(&format!(
        "[upstream.app]\nendpoints = \"http://{}\"\ndeadline = \"300ms\"\nretry.attempts = 1\n\
         [upstream.hangs]\nendpoints = \"http://{}\"\ndeadline = \"300ms\"\nretry.attempts = 1\n\
         [[route]]\nupstream = \"app\"\n[route.stale]\n[[route]]\npath = \"/hangs\"\nupstream = \"hangs\"\n[route.stale]\n",
        origin.upstream.address,
        hanging_after_one().address
    ));
    assert_eq!(get(&proxy, "/hangs", "").text(), "once");
    let stale = get(&proxy, "/hangs", "");
    assert_eq!((stale.status, stale.text()), (200, "once"), "{}", stale.head);
    assert!(stale.header("x-seaworthy-degraded").unwrap().starts_with("stale; "));
}

/// An upstream that answers once and then never again.
fn hanging_after_one() -> Upstream {
    let first = AtomicBool::new(true);
    Upstream::serving(move |_, mut conn| {
        while conn.request().is_some() {
            if !first.swap(false, Ordering::SeqCst) {
                return conn.wait_for_end();
            }
            conn.send(answer(200, "cache-control: max-age=0\r\n", "once"));
        }
    })
}

#[test]
fn what_is_private_or_of_another_variant_is_never_served() {
    let origin = origin(|head| {
        let path = head.split(' ').nth(1).unwrap();
        let control = match path {
            "/private" => "cache-control: private, max-age=60\r\n",
            "/no-store" => "cache-control: no-store\r\n",
            "/must" => "cache-control: max-age=0, must-revalidate\r\n",
            _ => "cache-control: max-age=60\r\nvary: accept-language\r\n",
        };
        answer(200, control, header(head, "accept-language").unwrap_or("none"))
    });
    let proxy = proxy(&origin, "within = \"1h\"");
    for path in ["/private", "/no-store", "/must"] {
        assert_eq!(get(&proxy, path, "").status, 200);
    }
    assert_eq!(get(&proxy, "/", "accept-language: de\r\n").text(), "de");
    assert_eq!(get(&proxy, "/", "accept-language: en\r\n").text(), "en");
    origin.broken.store(true, Ordering::SeqCst);
    for path in ["/private", "/no-store", "/must"] {
        assert_eq!(get(&proxy, path, "").status, 503, "{path}");
    }
    assert_eq!(get(&proxy, "/", "accept-language: de\r\n").text(), "de");
    assert_eq!(get(&proxy, "/", "accept-language: fr\r\n").status, 503);
}

#[test]
fn a_thousand_waiters_are_one_request() {
    let origin = origin(|head| {
        if header(head, "if-none-match").is_some() {
            // So that all others come while it is being refreshed.
            std::thread::sleep(std::time::Duration::from_millis(500));
            return "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncache-control: max-age=60\r\n\r\n"
                .to_owned();
        }
        answer(200, "cache-control: max-age=0\r\netag: \"1\"\r\n", "hello")
    });
    let proxy = proxy(&origin, "");
    assert_eq!(get(&proxy, "/", "").text(), "hello");
    let mut clients: Vec<Client> = (0..300).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    }
    for client in &mut clients {
        let reply = client.reply();
        assert_eq!((reply.status, reply.text()), (200, "hello"), "{}", reply.head);
    }
    assert_eq!(origin.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn what_may_be_refreshed_behind_the_clients_back_is() {
    let count = AtomicUsize::new(0);
    let origin = origin(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        answer(200, "cache-control: max-age=0, stale-while-revalidate=60\r\n", &n.to_string())
    });
    let proxy = proxy(&origin, "");
    assert_eq!(get(&proxy, "/", "").text(), "0");
    assert_eq!(get(&proxy, "/", "").text(), "0", "at once");
    eventually("the refreshed one is served", || get(&proxy, "/", "").text() != "0");
}

/// An origin that answers at once when it is first asked for a path, and later only when it is let go.
struct Slow {
    upstream: Upstream,
    asked: Arc<AtomicUsize>,
    let_go: Arc<AtomicBool>,
}

/// `holds` tells which requests wait, by their number from 0 and their head.
fn slow(says: &'static str, holds: fn(usize, &str) -> bool) -> Slow {
    let (asked, let_go) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let (count, gone) = (asked.clone(), let_go.clone());
    let upstream = Upstream::answering(move |head, _| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        if holds(n, head) {
            eventually("it is let go", || gone.load(Ordering::SeqCst));
        }
        let body = n.to_string();
        if head.starts_with("HEAD ") {
            return format!("HTTP/1.1 200 OK\r\n{says}content-length: {}\r\n\r\n", body.len());
        }
        answer(200, says, &body)
    });
    Slow { upstream, asked, let_go }
}

impl Slow {
    fn behind(&self, stale: &str) -> Running {
        Running::start(&format!(
            "[upstream.app]\nendpoints = \"http://{}\"\nretry.attempts = 1\ndeadline = \"60s\"\ntimeout.mode = \"off\"\n\
             [[route]]\nupstream = \"app\"\n[route.stale]\n{stale}\n",
            self.upstream.address
        ))
    }

    fn is_asked(&self, times: usize) {
        eventually("the origin is asked", || self.asked.load(Ordering::SeqCst) == times);
    }
}

#[test]
fn who_waits_for_anothers_refresh_waits_no_longer_than_its_own_deadline() {
    let origin = slow("cache-control: max-age=0\r\n", |n, _| n == 1);
    let proxy = origin.behind("");
    assert_eq!(get(&proxy, "/", "").text(), "0");
    let mut leader = proxy.client();
    leader.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    origin.is_asked(2);
    let follower = get(&proxy, "/", "x-seaworthy-timeout-ms: 200\r\n");
    assert_eq!((follower.status, follower.text()), (200, "0"), "{}", follower.head);
    assert!(follower.header("x-seaworthy-degraded").unwrap().starts_with("stale; "), "{}", follower.head);
    assert_eq!(origin.asked.load(Ordering::SeqCst), 2, "the follower did not ask");
    origin.let_go.store(true, Ordering::SeqCst);
    assert_eq!(leader.reply().text(), "1");
}

#[test]
fn nobody_waits_for_an_answer_that_is_kept_for_failures_alone() {
    let origin = slow("cache-control: max-age=60\r\n", |n, _| n == 1);
    let proxy = origin.behind("serve_fresh = false");
    assert_eq!(get(&proxy, "/", "").text(), "0");
    let mut first = proxy.client();
    first.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    origin.is_asked(2);
    assert_eq!(get(&proxy, "/", "").text(), "2", "while the first still waits");
    origin.let_go.store(true, Ordering::SeqCst);
    assert_eq!(first.reply().text(), "1");
}

#[test]
fn nobody_waits_for_a_head_which_brings_nothing_to_keep() {
    let origin = slow("cache-control: max-age=0\r\n", |_, head| head.starts_with("HEAD "));
    let proxy = origin.behind("");
    assert_eq!(get(&proxy, "/", "").text(), "0");
    let mut first = proxy.client();
    first.send("HEAD / HTTP/1.1\r\nhost: test\r\n\r\n");
    origin.is_asked(2);
    assert_eq!(get(&proxy, "/", "").text(), "2", "while the HEAD still waits");
    origin.let_go.store(true, Ordering::SeqCst);
    assert_eq!(first.head().status, 200);
}

#[test]
fn a_head_or_a_part_refreshes_nothing_behind_the_clients_back() {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let heads = seen.clone();
    let origin = origin(move |head| {
        let mut heads = heads.lock().unwrap();
        heads.push(head.to_owned());
        answer(200, "cache-control: max-age=0, stale-while-revalidate=60\r\n", &heads.len().to_string())
    });
    let proxy = proxy(&origin, "");
    assert_eq!(get(&proxy, "/", "").text(), "1");
    for _ in 0..3 {
        let mut client = proxy.client();
        client.send("HEAD / HTTP/1.1\r\nhost: test\r\n\r\n");
        assert_eq!(client.head().status, 200);
        assert_eq!(get(&proxy, "/", "range: bytes=0-0\r\n").status, 206);
    }
    eventually("the refreshed one is served", || get(&proxy, "/", "").text() != "1");
    let plain = |head: &String| head.starts_with("GET ") && header(head, "range").is_none();
    assert!(seen.lock().unwrap().iter().all(plain), "{:?}", seen.lock());
}

const EVALUATE: &str = "/ofrep/v1/evaluate/flags/new-checkout";
const ANNA: &[u8] = b"{\"context\":{\"targetingKey\":\"anna\"}}";

#[test]
fn flags_fall_back_from_live_to_the_last_known_to_the_declared() {
    let data = tempfile::tempdir().unwrap();
    let origin = origin(|_| {
        answer(
            200,
            "content-type: application/json\r\n",
            "{\"key\":\"new-checkout\",\"value\":true,\"reason\":\"STATIC\"}",
        )
    });
    let text = format!(
        "data = {:?}\n[upstream.app]\nendpoints = \"http://{}\"\nretry.attempts = 1\nbreaker.mode = \"off\"\n\
         [[route]]\nupstream = \"app\"\n[route.flags.defaults]\nnew-checkout = false\n",
        data.path(),
        origin.upstream.address
    );
    let mut proxy = Running::start(&text);
    let live = proxy.client().request("POST", EVALUATE, "", ANNA);
    assert_eq!(live.status, 200, "{} {}", live.head, live.text());
    assert!(live.text().contains("\"value\":true") && live.text().contains("STATIC"), "{}", live.text());
    assert_eq!(live.header("x-seaworthy-degraded"), None);
    proxy.tell_to_stop();
    proxy.join();

    origin.broken.store(true, Ordering::SeqCst);
    let proxy = Running::start(&text);
    let last = proxy.client().request("POST", EVALUATE, "", ANNA);
    assert_eq!(last.status, 200, "{} {}", last.head, last.text());
    assert!(last.text().contains("\"value\":true") && last.text().contains("STALE"), "{}", last.text());
    assert!(last.header("x-seaworthy-degraded").unwrap().starts_with("flags; reason="), "{}", last.head);
    let bert = b"{\"context\":{\"targetingKey\":\"bert\"}}";
    let declared = proxy.client().request("POST", EVALUATE, "", bert);
    assert!(
        declared.text().contains("\"value\":false") && declared.text().contains("DEFAULT"),
        "{}",
        declared.text()
    );
    let unknown = proxy.client().request("POST", "/ofrep/v1/evaluate/flags/other", "", bert);
    assert!(unknown.status >= 400, "{} {}", unknown.head, unknown.text());
    assert_eq!(unknown.header("x-seaworthy-degraded"), None);
}

//! Against a real redis-server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant as Moment;

use rustix::process::{Pid, Signal, kill_process};
use seaworthy_config::{RateBy, WhenDown};
use seaworthy_core::gate::breaker::State as Standing;
use seaworthy_core::gate::rate::{self, Config};
use seaworthy_core::{Reason, Rejection, Rng, Seeded};
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::rate::{Meter, Settings};

const PLENTY: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(100);

#[test]
fn two_proxies_share_one_quota_exactly() {
    let redis = Redis::start();
    let meters = [(); 2].map(|()| Rc::new(Meter::new("all", hourly(50, WhenDown::Refuse))));
    let remotes = [(); 2].map(|()| Rc::new(redis.remote(PLENTY)));
    let (admitted, refused) = locally(async {
        let calls: Vec<_> = (0..80)
            .map(|n| {
                let (meter, remote) = (meters[n % 2].clone(), remotes[n % 2].clone());
                tokio::task::spawn_local(async move { meter.admit(Some(&remote), clock::now(), 7).await })
            })
            .collect();
        let mut counts = (0, 0);
        for call in calls {
            match call.await.unwrap() {
                Ok(None) => counts.0 += 1,
                Err(Rejection { reason: Reason::RateExceeded, retry_after: Some(_), .. }) => counts.1 += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(meters[0].admit(Some(&remotes[0]), clock::now(), 8).await.is_ok(), "another key has its own");
        counts
    });
    assert_eq!((admitted, refused), (50, 30));
    assert_eq!(meters.map(|meter| meter.counts().down), [0, 0]);
}

#[test]
fn a_key_is_named_by_its_hash_and_vanishes() {
    let redis = Redis::start();
    locally(async {
        let meter = Meter::new("all", hourly(1, WhenDown::Refuse));
        assert_eq!(meter.admit(Some(&redis.remote(PLENTY)), clock::now(), 0xabc).await, Ok(None));
        let mut connection = redis.connection().await;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        assert_eq!(keys, ["test:rate:all:0000000000000abc"]);
        let lives_ms: u64 = redis::cmd("PTTL").arg(&keys[0]).query_async(&mut connection).await.unwrap();
        assert!((1..=3_600_000).contains(&lives_ms), "{lives_ms}");

        // What is quick to be forgotten is.
        let quick = Config { calls: 1, per: Duration::from_millis(2), burst: 1, ..Config::default() };
        let quick =
            Settings { rate: Valid::new(quick).unwrap(), by: RateBy::Client, shared: Some(WhenDown::Refuse) };
        let meter = Meter::new("quick", quick);
        assert_eq!(meter.admit(Some(&redis.remote(PLENTY)), clock::now(), 1).await, Ok(None));
        until(async || {
            let size: u64 = redis::cmd("DBSIZE").query_async(&mut connection.clone()).await.unwrap();
            size == 1
        })
        .await;
    });
}

#[test]
fn the_script_decides_as_the_core_does() {
    let redis = Redis::start();
    let script = Script::new(&format!("local now = tonumber(ARGV[3])\n{DECIDE}"));
    let mut draws = Seeded::new(42);
    let mut below = |n: u64| draws.next_u64() % n;
    locally(async {
        let mut connection = redis.connection().await;
        for (round, burst) in [1, 2, 5, 100].into_iter().enumerate() {
            // Slow enough that nothing expires by the server's clock while this runs.
            let interval_us = 3_600_000_000 + below(1000);
            let (interval_ns, key) = (interval_us * 1000, format!("script:{round}"));
            let quota = Quota { interval_ns, tolerance_ns: interval_ns * (burst - 1) };
            assert_eq!(in_micros(quota), (interval_us, interval_us * (burst - 1)));
            let (mut now_us, mut tat) = (1_800_000_000_000_000_u64, 0_u64);
            for step in 0..500 {
                let due = (tat / 1000).saturating_sub(interval_us * (burst - 1));
                match below(20) {
                    // The server's clock is set back or on by far.
                    0 => now_us -= below(200 * interval_us),
                    1 => now_us += below(200 * interval_us),
                    2 => now_us -= below(2_000_000),
                    // To the very moment at which it is admitted, or one before it.
                    3..8 => now_us = now_us.max(due),
                    8 => now_us = now_us.max(due.saturating_sub(1)),
                    _ => now_us += below(interval_us),
                }
                let (interval, tolerance) = in_micros(quota);
                let mut question = script.key(&key);
                let question = question.arg(interval).arg(tolerance).arg(now_us);
                let wait_us: u64 = question.invoke_async(&mut connection).await.unwrap();
                let expected = quota.decide(tat, Instant::from_nanos(now_us * 1000));
                match expected {
                    Decision::Admit(next) => {
                        assert_eq!(wait_us, 0, "burst {burst}, step {step}");
                        tat = next;
                        let kept: u64 =
                            redis::cmd("GET").arg(&key).query_async(&mut connection).await.unwrap();
                        assert_eq!(kept * 1000, tat, "burst {burst}, step {step}");
                    }
                    Decision::Refuse(wait) => {
                        assert_eq!(Duration::from_micros(wait_us), wait, "burst {burst}, step {step}");
                    }
                }
            }
        }
    });
}

#[test]
fn microseconds_never_admit_more() {
    for (calls, per_ms, burst) in
        [(3, 1000, 5), (70_000, 1000, 100), (1, 86_400_000, u32::MAX), (1_000_000, 1, 1)]
    {
        let config = Config { calls, per: Duration::from_millis(per_ms), burst, ..Config::default() };
        let quota = Quota::new(&Valid::new(config).unwrap());
        let (interval, tolerance) = in_micros(quota);
        assert!(interval >= 1 && interval * 1000 >= quota.interval_ns);
        assert!(tolerance / interval < u64::from(burst), "a burst of {burst} stays one");
        assert!(tolerance <= MOST_TOLERANCE);
    }
}

#[test]
fn a_server_that_forgot_the_script_is_told_again() {
    let redis = Redis::start();
    locally(async {
        let (meter, remote) = (Meter::new("all", hourly(2, WhenDown::Refuse)), redis.remote(PLENTY));
        assert_eq!(meter.admit(Some(&remote), clock::now(), 7).await, Ok(None));
        let mut connection = redis.connection().await;
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
        assert_eq!(meter.admit(Some(&remote), clock::now(), 7).await, Ok(None));
        assert_eq!(meter.counts().down, 0);
    });
}

#[test]
fn a_redis_that_hangs_is_decided_without_and_used_again() {
    let redis = Redis::start();
    locally(async {
        let remote = redis.remote(SHORT);
        answered(&remote).await;
        redis.signal(Signal::STOP);
        all_choices_hold(&remote).await;
        assert_eq!(remote.store.snapshot(clock::now()).state, Standing::Open);
        redis.signal(Signal::CONT);
        answered(&remote).await;
    });
}

#[test]
fn a_redis_that_died_is_decided_without_and_used_again() {
    let mut redis = Redis::start();
    locally(async {
        let remote = redis.remote(SHORT);
        answered(&remote).await;
        redis.kill();
        all_choices_hold(&remote).await;
        assert_eq!(remote.store.snapshot(clock::now()).state, Standing::Open);
        redis.restart();
        answered(&remote).await;
    });
}

#[test]
fn who_gives_a_question_up_is_no_failure_of_redis() {
    let redis = Redis::start();
    locally(async {
        let remote = redis.remote(PLENTY);
        answered(&remote).await;
        redis.signal(Signal::STOP);
        for _ in 0..20 {
            let gave_up = timeout(Duration::from_millis(1), remote.ask(clock::now(), "all", 9, one())).await;
            assert!(gave_up.is_err());
        }
        assert_eq!(remote.store.snapshot(clock::now()).state, Standing::Closed);
        redis.signal(Signal::CONT);
        answered(&remote).await;
    });
}

#[test]
fn an_address_that_is_none_is_refused_without_telling_its_password() {
    for url in ["http://u:secret@localhost", "rediss://u:secret@localhost", "localhost:secret"] {
        let error = Store::new(url, SHORT, "test", 1).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }
    let store = Store::new("redis://u:secret@localhost", SHORT, "test", 1).unwrap();
    assert!(!format!("{store:?}").contains("secret"));
}

/// Whatever is asked, nobody is there: each choice of what to do then does what it says.
async fn all_choices_hold(remote: &Remote) {
    let ask = async |meter: &Meter| meter.admit(Some(remote), clock::now(), 7).await.map_err(|r| r.reason);
    let local = Meter::new("local", hourly(1, WhenDown::Local));
    assert_eq!(ask(&local).await, Ok(None));
    assert_eq!(ask(&local).await, Err(Reason::RateExceeded));
    let allow = Meter::new("allow", hourly(1, WhenDown::Allow));
    let refuse = Meter::new("refuse", hourly(1, WhenDown::Refuse));
    for _ in 0..5 {
        assert_eq!(ask(&allow).await, Ok(None));
        assert_eq!(ask(&refuse).await, Err(Reason::StoreDown));
    }
    let rejection = refuse.admit(Some(remote), clock::now(), 7).await.unwrap_err();
    assert!(rejection.retry_after >= Some(Duration::from_secs(1)));
    assert_eq!([local, allow, refuse].map(|meter| meter.counts().down), [2, 5, 6]);
}

/// Waits until Redis decides.
async fn answered(remote: &Remote) {
    until(async || remote.ask(clock::now(), "awaited", 0, one()).await.is_ok()).await;
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let begun = Moment::now();
    while !done().await {
        assert!(begun.elapsed() < PLENTY, "it did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn locally<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(test)
}

fn hourly(burst: u32, when_down: WhenDown) -> Settings {
    let per = Duration::from_secs(3600);
    let config = rate::Config { calls: 1, per, burst, ..rate::Config::default() };
    Settings { rate: Valid::new(config).unwrap(), by: RateBy::Client, shared: Some(when_down) }
}

fn one() -> Quota {
    Quota::new(&hourly(1, WhenDown::Local).rate)
}

/// A redis-server of the test's own, which ends with it.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start() -> Self {
        // Another process may take the port between two lines of this; then the next is tried.
        for _ in 0..10 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if let Some(child) = serve(free) {
                return Self { child, port: free };
            }
        }
        panic!("no redis-server stayed up");
    }

    fn restart(&mut self) {
        self.child = serve(self.port).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn remote(&self, timeout: Duration) -> Remote {
        Remote::new(Arc::new(Store::new(&self.url(), timeout, "test", 1).unwrap()))
    }

    async fn connection(&self) -> MultiplexedConnection {
        Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be dead already, as the test wanted.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A server that answers, or none if it ended at once.
fn serve(port: u16) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    let mut child = match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => panic!("these tests need redis-server (Debian: apt-get install redis-server): {error}"),
    };
    let begun = Moment::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PLENTY, "redis-server does not answer");
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            && stream.write_all(b"PING\r\n").is_ok()
        {
            let mut answer = [0; 5];
            if stream.read_exact(&mut answer).is_ok() && &answer == b"+PONG" {
                return Some(child);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

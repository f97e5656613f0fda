//! The process pool, with processes that are really killed.
//!
//! The workers are this test program again: the pool has it run the one test [`this_may_be_a_worker`].
#![cfg(unix)]
#![expect(clippy::print_stdout, reason = "a worker may print what it likes")]
#![expect(clippy::zombie_processes, reason = "a worker may leave its children behind")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use seaworthy::bulkhead::process_pool::{self, Again, Cause, Config, Error, ProcessPool};
use seaworthy::bulkhead::{StartError, process_pool::WORKER};
use seaworthy::{Policy, Reason};

/// Longer than any test takes, so that nothing here is decided by time unless it says so.
const LONG: Duration = Duration::from_secs(600);
const NAME: &str = "test";

/// One worker, and nothing is decided by time.
const ONE: Config = Config {
    workers: 1,
    queue: 8,
    max_wait: LONG,
    timeout: LONG,
    start_timeout: LONG,
    most_bytes: 1024,
    memory: None,
    calls_per_worker: None,
    restart_base: Duration::from_millis(1),
    restart_cap: Duration::from_millis(10),
};

/// Does nothing when it is run as a test.
#[test]
fn this_may_be_a_worker() {
    if process_pool::is_worker(NAME) {
        let ended = process_pool::serve(|request| obey(&request));
        std::process::exit(i32::from(ended.is_err()));
    }
}

fn obey(request: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(request.to_vec()).unwrap();
    let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
    match word {
        "echo" => {
            println!("what is printed here harms nobody");
            rest.into()
        }
        "pid" => std::process::id().to_string().into(),
        "exit" => std::process::exit(rest.parse().unwrap()),
        "abort" => std::process::abort(),
        "panic" => panic!("{rest}"),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "sleep" => loop {
            std::thread::park();
        },
        "reserve" => match Vec::<u8>::new().try_reserve_exact(rest.parse().unwrap()) {
            Ok(()) => "ok".into(),
            Err(_) => "refused".into(),
        },
        "devour" => vec![1; rest.parse().unwrap()],
        "long" => vec![0; rest.parse().unwrap()],
        "child" => {
            let child = Command::new("sleep").arg("600").spawn().unwrap();
            child.id().to_string().into()
        }
        "nested" => match ProcessPool::new("nested", Config::default()) {
            Err(error @ StartError::InsideWorker) => error.to_string().into(),
            other => format!("{other:?}").into(),
        },
        other => panic!("{other} is no command"),
    }
}

fn pool(config: Config) -> ProcessPool {
    ProcessPool::with_command(NAME, config, this_test()).unwrap()
}

fn this_test() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["this_may_be_a_worker", "--exact", "--nocapture"]).stdout(Stdio::null());
    command
}

/// A worker as a shell script, which has its pipe as file 0.
fn script(config: Config, text: &str) -> ProcessPool {
    let mut command = Command::new("sh");
    command.args(["-c", text]);
    ProcessPool::with_command("script", config, command).unwrap()
}

async fn ask(pool: &ProcessPool, request: &str) -> Result<String, Error> {
    pool.call(request.into()).await.map(|answer| String::from_utf8(answer).unwrap())
}

async fn cause(pool: &ProcessPool, request: &str) -> Cause {
    match ask(pool, request).await {
        Err(error @ Error::Lost { .. }) => {
            let Error::Lost { cause, pid } = &error else { unreachable!() };
            assert!(*pid > 1);
            let useless = matches!(cause, Cause::TooLong { .. });
            assert_eq!(error.again(), if useless { Again::Useless } else { Again::IfIdempotent });
            cause.clone()
        }
        other => panic!("{other:?}"),
    }
}

async fn pid(pool: &ProcessPool) -> i32 {
    ask(pool, "pid").await.unwrap().parse().unwrap()
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Gone from the system, or waiting for a parent that is not ours to collect it.
fn is_gone(pid: i32) -> bool {
    is_reaped(pid) || state(&format!("/proc/{pid}/stat")) == Some('Z')
}

#[cfg(target_os = "linux")]
fn threads_are_all(pid: i32, wanted: char) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.all(|thread| state(&thread.unwrap().path().join("stat").display().to_string()) == Some(wanted))
}

/// The letter after the name, which stands in parentheses and may contain some.
fn state(file: &str) -> Option<char> {
    std::fs::read_to_string(file).ok()?.rsplit(')').next()?.trim_start().chars().next()
}

/// Nothing is left of it: not even its entry, as its parent has asked for its status.
fn is_reaped(pid: i32) -> bool {
    rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_err()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_worker_answers_call_after_call() {
    let pool = pool(ONE);
    for n in 0..100 {
        assert_eq!(ask(&pool, &format!("echo {n}")).await.unwrap(), n.to_string());
    }
    assert_eq!(ask(&pool, "echo ").await.unwrap(), "");
    let seen = pool.snapshot();
    assert_eq!((seen.started, seen.lost, seen.workers.len(), seen.running), (1, 0, 1, 0));
}

#[tokio::test]
async fn every_kind_of_fall_loses_one_call_and_the_next_is_answered() {
    let pool = pool(ONE);
    assert!(matches!(cause(&pool, "exit 3").await, Cause::Exit(3)));
    assert_eq!(ask(&pool, "echo on").await.unwrap(), "on");
    assert!(matches!(cause(&pool, "abort").await, Cause::Signal(6)));
    assert_eq!(ask(&pool, "echo on").await.unwrap(), "on");
    assert!(matches!(cause(&pool, "panic at this").await, Cause::Panicked(text) if text == "at this"));
    assert_eq!(ask(&pool, "echo on").await.unwrap(), "on");
    let too_long = cause(&pool, "long 1025").await;
    assert!(matches!(too_long, Cause::TooLong { length: 1025, most: 1024 }), "{too_long}");
    assert_eq!(ask(&pool, "long 1024").await.unwrap().len(), 1024);
    assert_eq!((pool.snapshot().lost, pool.snapshot().started), (4, 5));
}

#[tokio::test]
async fn a_worker_killed_in_mid_call_loses_that_call_alone() {
    let pool = pool(Config { workers: 2, ..ONE });
    let victim = tokio::spawn(pool.call(b"sleep".to_vec()));
    until(|| pool.snapshot().running == 1 && pool.snapshot().workers.len() == 2).await;
    let bystander = pid(&pool).await;
    let sleeper =
        pool.snapshot().workers.into_iter().map(|pid| pid.cast_signed()).find(|pid| *pid != bystander);
    kill(sleeper.unwrap(), Signal::KILL);
    let lost = victim.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::Lost { cause: Cause::Signal(9), .. }), "{lost:?}");
    assert!(is_reaped(sleeper.unwrap()));
    assert_eq!(ask(&pool, "echo on").await.unwrap(), "on");
    until(|| pool.snapshot().workers.len() == 2).await;
    assert_eq!((pool.snapshot().lost, pool.snapshot().started), (1, 3));
    assert!(pool.snapshot().workers.contains(&bystander.cast_unsigned()));
}

#[tokio::test]
async fn an_idle_worker_that_is_killed_is_replaced_and_loses_no_call() {
    let pool = pool(ONE);
    for _ in 0..5 {
        let old = pid(&pool).await;
        kill(old, Signal::KILL);
        // At once, as likely as not before the pool has noticed.
        match ask(&pool, "pid").await {
            Ok(new) => assert_ne!(new.parse(), Ok(old)),
            // It was handed the call before it was dead: that one is lost, and says so.
            Err(Error::Lost { cause: Cause::Signal(9), .. }) => {}
            other => panic!("{other:?}"),
        }
        until(|| is_reaped(old)).await;
    }
    let (old, lost) = (pid(&pool).await, pool.snapshot().lost);
    kill(old, Signal::KILL);
    until(|| is_reaped(old)).await;
    assert_ne!(pid(&pool).await, old);
    assert_eq!(pool.snapshot().lost, lost);
}

#[tokio::test]
async fn a_call_that_hangs_ends_with_its_worker() {
    for request in ["spin", "sleep"] {
        let timeout = Duration::from_millis(200);
        let pool = pool(Config { timeout, ..ONE });
        until(|| !pool.snapshot().workers.is_empty()).await;
        let worker = pool.snapshot().workers[0].cast_signed();
        assert!(matches!(cause(&pool, request).await, Cause::TimedOut(t) if t == timeout));
        assert!(is_reaped(worker));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_frozen_worker_is_killed_as_well() {
    let pool = pool(Config { timeout: Duration::from_millis(200), ..ONE });
    until(|| !pool.snapshot().workers.is_empty()).await;
    let worker = pool.snapshot().workers[0].cast_signed();
    kill(worker, Signal::STOP);
    // The signal reaches one thread after the other.
    until(|| threads_are_all(worker, 'T')).await;
    assert!(matches!(cause(&pool, "echo never").await, Cause::TimedOut(_)));
    assert!(is_reaped(worker));
}

#[tokio::test]
async fn a_leak_ends_at_its_limit_and_takes_nobody_along() {
    let limit = 512 << 20;
    let pool = pool(Config { memory: Some(limit), most_bytes: u64::from(u32::MAX), ..ONE });
    assert_eq!(ask(&pool, "reserve 1000000").await.unwrap(), "ok");
    assert_eq!(ask(&pool, "reserve 2000000000").await.unwrap(), "refused");
    assert!(matches!(cause(&pool, "devour 2000000000").await, Cause::Signal(6)));
    assert_eq!(ask(&pool, "echo on").await.unwrap(), "on");
}

#[tokio::test]
async fn a_worker_is_replaced_after_its_share_of_calls() {
    let pool = pool(Config { calls_per_worker: Some(2), ..ONE });
    let mut pids = Vec::new();
    for _ in 0..6 {
        pids.push(pid(&pool).await);
    }
    assert!(pids[0] == pids[1] && pids[2] == pids[3] && pids[4] == pids[5], "{pids:?}");
    assert!(pids[1] != pids[2] && pids[3] != pids[4], "{pids:?}");
    until(|| is_reaped(pids[0]) && is_reaped(pids[2])).await;
    assert_eq!(pool.snapshot().lost, 0);
}

#[tokio::test]
async fn a_request_that_is_too_long_is_not_sent() {
    let pool = pool(ONE);
    let error = pool.call(vec![b' '; 1025]).await.unwrap_err();
    assert!(matches!(error, Error::TooLong { length: 1025, most: 1024 }));
    assert_eq!(error.again(), Again::Useless);
    assert_eq!(pool.snapshot().lost, 0);
}

#[tokio::test]
async fn what_is_no_worker_is_told_so() {
    let pool =
        script(Config { max_wait: Duration::from_millis(500), ..ONE }, "echo hello world >&0; sleep 600");
    let error = ask(&pool, "x").await.unwrap_err();
    assert!(matches!(&error, Error::NoWorker { last: Some(Cause::Broken(_)), .. }), "{error:?}");
    assert_eq!(error.again(), Again::Safe);
}

#[tokio::test]
async fn a_worker_that_never_greets_is_given_up() {
    let limit = Duration::from_millis(10);
    let config = Config { max_wait: Duration::from_millis(500), start_timeout: limit, ..ONE };
    let error = ask(&script(config, "sleep 600"), "x").await.unwrap_err();
    let Error::NoWorker { last: Some(cause), .. } = error else { panic!("{error:?}") };
    assert!(matches!(cause, Cause::StartedTooSlowly(l) if l == limit), "{cause}");
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named_as_the_cause() {
    let config = Config { max_wait: Duration::from_millis(100), ..ONE };
    let pool = ProcessPool::with_command("none", config, Command::new("/does/not/exist")).unwrap();
    let error = ask(&pool, "x").await.unwrap_err();
    assert!(matches!(&error, Error::NoWorker { last: Some(Cause::NotStarted(_)), .. }), "{error:?}");
    assert_eq!((pool.snapshot().running, pool.snapshot().waiting), (0, 0));
}

#[tokio::test]
async fn broken_answers_lose_their_call() {
    // Each reads the head of a request (12 bytes) and its body, and answers badly.
    let read = "printf seawork1 >&0; head -c 13 >/dev/null;";
    let cases = [
        ("printf 'aaaaaaaaaaaaaaaaaaaaaaaaaa' >&0; sleep 600", "answers what it was not asked"),
        ("printf '\\0\\0\\0\\0\\0\\0\\0\\1\\7\\0\\0\\0\\0' >&0; sleep 600", "of no known kind"),
        ("printf '\\0\\0\\0' >&0; exit 4", "exited with 4"),
        ("exec <&-; sleep 600", "closed the pipe"),
    ];
    for (bad, told) in cases {
        let pool = script(ONE, &format!("{read} {bad}"));
        let cause = cause(&pool, "x").await.to_string();
        assert!(cause.contains(told), "{bad}: {cause}");
    }
}

#[tokio::test]
async fn a_worker_that_speaks_unasked_is_replaced() {
    let answer = "printf '\\0\\0\\0\\0\\0\\0\\0\\1\\0\\0\\0\\0\\0'";
    let text = format!("printf seawork1 >&0; head -c 13 >/dev/null; {answer} >&0; echo more >&0; sleep 600");
    let pool = script(ONE, &text);
    assert_eq!(ask(&pool, "x").await.unwrap(), "");
    until(|| matches!(pool.snapshot().last, Some(Cause::Broken(_)))).await;
    assert_eq!(pool.snapshot().lost, 0);
}

#[tokio::test]
async fn a_full_queue_refuses_and_who_leaves_it_is_never_begun() {
    let pool = pool(Config { queue: 1, ..ONE });
    let first = tokio::spawn(pool.call(b"sleep".to_vec()));
    until(|| pool.snapshot().running == 1).await;
    let second = tokio::spawn(pool.call(b"exit 1".to_vec()));
    until(|| pool.snapshot().waiting == 1).await;
    let refused = ask(&pool, "echo x").await.unwrap_err();
    let Error::Rejected(rejection) = &refused else { panic!("{refused:?}") };
    assert_eq!((rejection.policy, rejection.reason), (Policy::Bulkhead, Reason::QueueFull));
    assert_eq!((refused.retry_after(), refused.again()), (Some(LONG), Again::Safe));

    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    until(|| pool.snapshot().workers.len() == 1).await;
    kill(pool.snapshot().workers[0].cast_signed(), Signal::KILL);
    first.await.unwrap().unwrap_err();
    assert_eq!(ask(&pool, "echo on").await.unwrap(), "on");
    assert_eq!(pool.snapshot().lost, 1);
}

#[tokio::test]
async fn a_call_whose_caller_leaves_before_a_worker_is_up_is_never_begun() {
    // Greets only when it is told to, by the file's being there.
    let gate = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let path = gate.display().to_string();
    gate.close().unwrap();
    let wait = format!("while ! [ -e '{path}' ]; do sleep 0.01; done");
    let answer = "head -c 13 >&2 >/dev/null; printf '\\0\\0\\0\\0\\0\\0\\0\\2\\0\\0\\0\\0\\0' >&0; sleep 600";
    let pool = script(ONE, &format!("{wait}; printf seawork1 >&0; {answer}"));
    let first = tokio::spawn(pool.call(b"1".to_vec()));
    until(|| pool.snapshot().running == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(pool.snapshot().running, 0);
    // The script answers the call of number 2, which it would not do were it the second that it is asked.
    let second = tokio::spawn(pool.call(b"2".to_vec()));
    until(|| pool.snapshot().running == 1).await;
    std::fs::write(&path, "").unwrap();
    second.await.unwrap().unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn a_shutdown_lets_the_idle_end_and_kills_who_hangs() {
    let pool = pool(Config { workers: 2, ..ONE });
    until(|| pool.snapshot().workers.len() == 2).await;
    let pids: Vec<_> = pool.snapshot().workers.into_iter().map(|pid| pid.cast_signed()).collect();
    let hanging = tokio::spawn(pool.call(b"spin".to_vec()));
    until(|| pool.snapshot().running == 1).await;
    // The hanging one has begun once the other answers a call that came after it.
    ask(&pool, "echo x").await.unwrap();
    assert_eq!(pool.shutdown(Duration::from_millis(500)).await.unwrap_err().workers, 1);
    let lost = hanging.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::Lost { cause: Cause::Stopped, .. }), "{lost:?}");
    assert!(pids.iter().all(|pid| is_reaped(*pid)));
    assert!(matches!(ask(&pool, "echo x").await, Err(Error::ShutDown)));
    pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn a_pool_that_is_dropped_kills_its_workers_and_what_they_started() {
    let pool = pool(ONE);
    let child: i32 = ask(&pool, "child").await.unwrap().parse().unwrap();
    let worker = pid(&pool).await;
    assert!(!is_gone(child));
    drop(pool);
    until(|| is_reaped(worker) && is_gone(child)).await;
}

#[tokio::test]
async fn a_worker_may_not_start_its_own_program() {
    let pool = pool(ONE);
    let told = ask(&pool, "nested").await.unwrap();
    assert!(told.contains("is_worker first"), "{told}");
}

/// The host of the next test, in a process of its own.
#[test]
fn this_may_be_a_host() {
    let Some(request) = std::env::var_os("TEST_HOST") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let pool = pool(ONE);
        eprintln!("worker {}", pid(&pool).await);
        drop(ask(&pool, request.to_str().unwrap()).await);
    });
}

/// A worker that waits sees its pipe close; one that computes is killed by the kernel (on Linux).
#[tokio::test]
async fn workers_end_when_their_parent_is_killed() {
    let requests: &[&str] = if cfg!(target_os = "linux") { &["spin", "sleep"] } else { &[] };
    for request in requests {
        let mut host = Command::new(std::env::current_exe().unwrap())
            .args(["this_may_be_a_host", "--exact", "--nocapture"])
            .env("TEST_HOST", request)
            .env_remove(WORKER)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(host.stderr.take().unwrap()).lines().map(Result::unwrap);
        let worker: i32 = lines.filter_map(|line| line.strip_prefix("worker ")?.parse().ok()).next().unwrap();
        assert!(!is_gone(worker));
        host.kill().unwrap();
        host.wait().unwrap();
        until(|| is_gone(worker)).await;
    }
}

#[test]
fn faults_are_named_in_the_pools_own_words() {
    let config = Config {
        workers: 0,
        timeout: Duration::ZERO,
        calls_per_worker: Some(0),
        most_bytes: 1 << 32,
        restart_cap: Duration::ZERO,
        ..ONE
    };
    let error = ProcessPool::with_command("test", config, Command::new("true")).unwrap_err();
    let StartError::Config(faults) = error else { panic!("{error}") };
    let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["workers", "timeout", "calls_per_worker", "most_bytes", "restart_cap"]);
}

#[test]
fn who_was_not_started_by_a_pool_cannot_serve() {
    let error = process_pool::serve(|request| request).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
}

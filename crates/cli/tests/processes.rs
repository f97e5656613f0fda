//! Supervised processes: real ones, really killed.
//!
//! The supervisor is the proxy's, the step in between is the command's own `exec-child`, and the children are this very test program: the
//! test [`child`], which is ignored unless one of the others starts it, does what the variable `MODE` says.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::print_stdout, reason = "the children talk to the tests that way")]

use std::cell::RefCell;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seaworthy_proxy::process::{
    Cause, Enforced, Event, Ready, Refused, Settings, Shim, State, Stream, Supervisor, What,
};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

// ------------------------------------------------------------------------------------------------------------------ tests

#[test]
fn every_replica_gets_a_port_of_its_own_and_is_ready() {
    run(vec![replicas(3, settings("api", "serve"))], async |world| {
        for replica in 1..=3 {
            world.ready(0, replica).await;
        }
        let shown = world.supervisor.snapshot();
        assert_eq!(shown[0].name, "api");
        let mut ports: Vec<u16> = shown[0].replicas.iter().map(|replica| replica.port.unwrap()).collect();
        for (replica, port) in shown[0].replicas.iter().zip(&ports) {
            assert_eq!(get(*port), replica.pid.unwrap().to_string());
            assert_eq!((replica.restarts, &replica.limits), (0, &Default::default()));
        }
        ports.dedup();
        assert_eq!(ports.len(), 3);
        world.supervisor.stop_all().await;
        let pids = shown[0].replicas.iter().filter_map(|replica| replica.pid);
        assert!(pids.into_iter().all(gone), "somebody was not reaped");
        assert!(world.supervisor.snapshot()[0].replicas.iter().all(|r| r.state == State::Stopped));
    });
}

#[test]
fn what_is_killed_returns_on_its_port_and_the_others_notice_nothing() {
    run(vec![replicas(2, settings("api", "serve"))], async |world| {
        let (port, pid) = world.ready(0, 1).await;
        let other = world.ready(0, 2).await;
        kill(raw(pid), Signal::SIGKILL).unwrap();
        let cause = world.state(0, 1, |state| state.cause().cloned()).await;
        assert!(matches!(cause, Cause::Signalled { signal: 9, .. }), "{cause}");
        assert!(gone(pid), "it was not reaped");
        let again = world.ready(0, 1).await;
        assert_eq!(again.0, port);
        assert_ne!(again.1, pid);
        assert_eq!(get(port), again.1.to_string());
        let replicas = &world.supervisor.snapshot()[0].replicas;
        assert_eq!((replicas[0].restarts, replicas[1].restarts), (1, 0));
        assert_eq!(replicas[1].state, State::Ready { port: other.0, pid: other.1 });
    });
}

#[test]
fn a_crash_loop_is_given_up_and_touches_nobody_else() {
    let quick = Duration::from_millis(5);
    let crash =
        Settings { restart_base: quick, restart_cap: quick * 4, give_up: 4, ..settings("crash", "crash") };
    run(vec![crash, settings("api", "serve")], async |world| {
        let api = world.ready(1, 1).await;
        let given_up =
            world.state(0, 1, |state| matches!(state, State::GivenUp { .. }).then(|| state.clone())).await;
        let State::GivenUp { cause, restarts, .. } = &given_up else { panic!("{given_up}") };
        assert_eq!((cause, *restarts), (&Cause::Exited { code: 3, last: "boom".into() }, 4));
        let pids = world.pids_told(0);
        assert_eq!(pids.len(), 5, "the first start and four restarts");
        assert!(pids.into_iter().all(gone), "a zombie was left");
        let shown = world.supervisor.snapshot();
        assert_eq!(shown[0].replicas[0].restarts, 4);
        assert_eq!(shown[1].replicas[0].state, State::Ready { port: api.0, pid: api.1 });
        assert_eq!(get(api.0), api.1.to_string());
    });
}

#[test]
fn what_was_given_up_is_revived_by_order() {
    let flag = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("revived-by-order");
    std::fs::write(&flag, "").unwrap();
    let mut crash = Settings { give_up: 0, ..settings("api", "crash-while-flag") };
    crash.env.push(("FLAG".into(), flag.display().to_string()));
    run(vec![crash], async |world| {
        world.state(0, 1, |state| matches!(state, State::GivenUp { .. }).then_some(())).await;
        let refused = world.supervisor.restart("api").await.unwrap_err();
        assert!(matches!(&refused, Refused::NotReady { cause: Cause::Exited { .. }, .. }), "{refused}");
        std::fs::remove_file(&flag).unwrap();
        world.supervisor.restart("api").await.unwrap();
        world.ready(0, 1).await;
    });
}

#[test]
fn memory_ends_at_its_limit_and_the_others_notice_nothing() {
    let limit = 512 << 20;
    let greedy = Settings { memory: Some(limit), cpu: Some(0.5), ..settings("greedy", "allocate") };
    run(vec![greedy, settings("api", "serve")], async |world| {
        let api = world.ready(1, 1).await;
        let cause = world.state(0, 1, |state| state.cause().cloned()).await;
        let limits = world.supervisor.snapshot()[0].replicas[0].limits.clone();
        match limits.memory.clone().unwrap() {
            (_, Enforced::AddressSpace) => {
                assert!(
                    matches!(&cause, Cause::Signalled { signal: 6, last } if last.contains("memory")),
                    "{cause}"
                );
                assert!(
                    matches!(&limits.cpu, Some((_, Enforced::Not { why })) if why.contains("RLIMIT_CPU"))
                );
                assert!(limits.without_cgroup.is_some());
            }
            (_, Enforced::Cgroup) => assert_eq!(cause, Cause::OutOfMemory { limit }),
            other => panic!("{other:?}"),
        }
        let eaten = world.lines(0, |line| line.strip_prefix("eaten ")?.parse::<u64>().ok());
        assert!(!eaten.is_empty() && eaten.iter().all(|bytes| *bytes < limit), "{eaten:?}");
        assert_eq!(world.supervisor.snapshot()[1].replicas[0].restarts, 0);
        assert_eq!(get(api.0), api.1.to_string());
    });
}

#[test]
fn who_ignores_sigterm_is_killed_when_its_grace_is_over() {
    let stubborn = Settings { grace: Duration::from_millis(300), ..settings("stubborn", "ignore-sigterm") };
    run(vec![stubborn], async |world| {
        let (_, pid) = world.ready(0, 1).await;
        world.supervisor.stop_all().await;
        assert!(gone(pid));
        assert_eq!(world.lines(0, |line| line.contains("no thanks").then_some(())).len(), 1);
    });
}

#[test]
fn a_frozen_child_stops_within_its_grace() {
    run(vec![settings("api", "serve")], async |world| {
        let (_, pid) = world.ready(0, 1).await;
        kill(raw(pid), Signal::SIGSTOP).unwrap();
        // The grace is a minute: longer than a test may take.
        world.supervisor.stop_all().await;
        assert!(gone(pid));
    });
}

#[test]
fn what_a_child_started_goes_with_it() {
    run(vec![settings("family", "family")], async |world| {
        let (_, pid) = world.ready(0, 1).await;
        let grandchild = world.line(0, |line| line.strip_prefix("child ")?.parse().ok()).await;
        assert!(!gone(grandchild));
        kill(raw(pid), Signal::SIGKILL).unwrap();
        world.state(0, 1, |state| state.cause().cloned()).await;
        // It is not ours to reap.
        patiently("the grandchild ends", async || until(|| dead(grandchild)).await).await;
    });
}

#[test]
fn children_die_with_a_supervisor_that_was_killed() {
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(&as_child()[1..])
        .env("MODE", "supervise")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(supervisor.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pids: Vec<u32> = lines.filter_map(|line| line.strip_prefix("ready ")?.parse().ok()).take(2).collect();
    assert!(pids.len() == 2 && !pids.iter().any(|pid| dead(*pid)), "{pids:?}");
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    let runtime = runtime();
    runtime
        .block_on(patiently("the children end", async || until(|| pids.iter().all(|pid| dead(*pid))).await));
}

#[test]
fn children_die_with_their_runtime() {
    let runtime = runtime();
    let pid = runtime.block_on(async {
        let world = World::start(vec![settings("api", "serve")]);
        world.ready(0, 1).await.1
    });
    drop(runtime);
    assert!(gone(pid), "it was not reaped");
}

#[test]
fn what_can_t_be_started_says_why() {
    let with = |command: &str, dir: Option<&str>| Settings {
        command: vec![command.into()],
        dir: dir.map(PathBuf::from),
        ..settings("api", "serve")
    };
    let processes = vec![
        with("no-such-command", None),
        with("./here", Some("/")),
        with("/", None),
        Settings { dir: Some("/no/such/folder".into()), ..settings("api", "serve") },
    ];
    run(processes, async |world| {
        for (process, expected) in [
            "can't run `no-such-command` (looked for in PATH): No such file or directory",
            "can't run `./here` (from the folder /): No such file or directory",
            "can't run `/`: Permission denied",
            "can't go to the folder /no/such/folder: No such file or directory",
        ]
        .into_iter()
        .enumerate()
        {
            let cause = world.state(process, 1, |state| state.cause().cloned()).await;
            assert!(matches!(&cause, Cause::NotStarted { why } if why.starts_with(expected)), "{cause}");
        }
    });
}

#[test]
fn a_shim_that_is_not_there_is_no_crash() {
    runtime().block_on(async {
        let shim = Shim { program: "/no/such/shim".into(), arguments: Vec::new() };
        let world = World::with(vec![settings("api", "serve")], shim);
        let cause = world.state(0, 1, |state| state.cause().cloned()).await;
        assert!(matches!(&cause, Cause::NotStarted { why } if why.contains("/no/such/shim")), "{cause}");
        world.supervisor.stop_all().await;
    });
}

#[test]
fn who_is_not_ready_in_time_is_killed_and_counts_as_failed() {
    let deaf = Settings { ready_timeout: Duration::from_millis(500), give_up: 0, ..settings("deaf", "deaf") };
    run(vec![deaf], async |world| {
        let cause = world.state(0, 1, |state| state.cause().cloned()).await;
        assert!(matches!(cause, Cause::NotReady { .. }), "{cause}");
        assert!(world.pids_told(0).into_iter().all(gone));
    });
}

#[test]
fn ready_is_what_answers_2xx() {
    let slow =
        Settings { ready: Ready::Http { path: "/ready".into() }, ..settings("slow", "unavailable-at-first") };
    run(vec![slow], async |world| {
        let (port, pid) = world.ready(0, 1).await;
        assert_eq!(get(port), pid.to_string());
        let refusals = || world.lines(0, |line| (line == "not yet").then_some(())).len();
        world.heard("third refusal", |_| (refusals() == 3).then_some(())).await;
    });
}

#[test]
fn a_rolling_restart_takes_one_after_the_other() {
    run(vec![replicas(3, settings("api", "serve"))], async |world| {
        let mut before = Vec::new();
        for replica in 1..=3 {
            before.push(world.ready(0, replica).await);
        }
        world.forget();
        let rolling = world.supervisor.restart("api");
        let draining = async {
            for replica in 1..=3 {
                world.state(0, replica, |state| matches!(state, State::Draining { .. }).then_some(())).await;
                // Still there: nobody has said yet that it has drained.
                let (port, pid) = before[replica as usize - 1];
                assert_eq!(get(port), pid.to_string());
                assert!(matches!(world.supervisor.restart("api").await, Err(Refused::Underway { .. })));
                world.supervisor.drained(0, replica);
            }
        };
        let (done, ()) = tokio::join!(rolling, draining);
        done.unwrap();
        let names: Vec<(u32, &str)> = world.states(0).iter().map(|(n, state)| (*n, state.name())).collect();
        let one = |n| ["draining", "stopping", "starting", "ready"].map(|name| (n, name));
        assert_eq!(names, [one(1), one(2), one(3)].concat());
        let after: Vec<(u16, u32)> = world.supervisor.snapshot()[0]
            .replicas
            .iter()
            .map(|r| (r.port.unwrap(), r.pid.unwrap()))
            .collect();
        for (after, before) in after.iter().zip(&before) {
            assert_eq!(after.0, before.0);
            assert_ne!(after.1, before.1);
            assert_eq!(get(after.0), after.1.to_string());
        }
        assert!(world.supervisor.snapshot()[0].replicas.iter().all(|replica| replica.restarts == 0));
        let refused = world.supervisor.restart("apo").await.unwrap_err();
        assert_eq!(refused.to_string(), "there is no process `apo`; there is api");
    });
}

#[test]
fn a_rolling_restart_stops_at_the_first_that_fails() {
    let flag = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stops-at-the-first");
    let _ = std::fs::remove_file(&flag);
    let mut api = Settings { drain: Duration::ZERO, ..replicas(2, settings("api", "crash-while-flag")) };
    api.env.push(("FLAG".into(), flag.display().to_string()));
    run(vec![api], async |world| {
        world.ready(0, 1).await;
        let other = world.ready(0, 2).await;
        std::fs::write(&flag, "").unwrap();
        let refused = world.supervisor.restart("api").await.unwrap_err();
        assert!(matches!(refused, Refused::NotReady { replica: 1, left: 1, .. }), "{refused}");
        assert_eq!(get(other.0), other.1.to_string());
        // It is tried again by itself.
        std::fs::remove_file(&flag).unwrap();
        world.ready(0, 1).await;
    });
}

#[test]
fn stopping_ends_a_rolling_restart() {
    run(vec![settings("api", "serve")], async |world| {
        world.ready(0, 1).await;
        let stop = async {
            world.state(0, 1, |state| matches!(state, State::Draining { .. }).then_some(())).await;
            world.supervisor.stop_all().await;
        };
        let (restarted, ()) = tokio::join!(world.supervisor.restart("api"), stop);
        assert_eq!(restarted, Err(Refused::Stopping));
        assert_eq!(world.supervisor.restart("api").await, Err(Refused::Stopping));
    });
}

#[test]
fn a_flood_of_lines_is_cut_and_counted() {
    run(vec![settings("flood", "flood"), settings("api", "serve")], async |world| {
        let api = world.ready(1, 1).await;
        let dropped = |event: &Event| match event.what {
            What::Dropped { lines, stream: Stream::Out } if event.process == 0 => Some(lines),
            _ => None,
        };
        let dropped = world.heard("lines to be dropped", |events| events.iter().find_map(dropped)).await;
        let told = world.lines(0, |line| line.starts_with("flood").then_some(())).len();
        assert!(dropped > 0 && told >= 1000, "told {told}, dropped {dropped}");
        assert_eq!(get(api.0), api.1.to_string());
    });
}

#[test]
fn a_child_gets_its_arguments_its_variables_and_its_folder() {
    let mut about = settings("about", "about");
    about.dir = Some("/".into());
    about.env.push(("GREETING".into(), "hello world".into()));
    about.command.extend(["--", "--help", "", "a b", "--", "-x"].map(String::from));
    run(vec![about], async |world| {
        let (port, _) = world.ready(0, 1).await;
        let said = world.line(0, |line| line.strip_prefix("about ").map(str::to_owned)).await;
        let arguments = r#"["--", "--help", "", "a b", "--", "-x"]"#;
        assert_eq!(said, format!("{arguments} \"hello world\" \"/\" {port}"));
    });
}

// ------------------------------------------------------------------------------------------------------------------ world

/// A supervisor and what it told.
struct World {
    supervisor: Supervisor,
    events: Rc<RefCell<Vec<Event>>>,
    news: Rc<Notify>,
}

impl World {
    fn start(processes: Vec<Settings>) -> Self {
        let program = env!("CARGO_BIN_EXE_seaworthy").into();
        Self::with(processes, Shim { program, arguments: vec!["exec-child".into()] })
    }

    fn with(processes: Vec<Settings>, shim: Shim) -> Self {
        let (events, news) = (Rc::<RefCell<Vec<Event>>>::default(), Rc::new(Notify::new()));
        let (into, bell) = (Rc::clone(&events), Rc::clone(&news));
        let supervisor = Supervisor::start(processes, shim, move |event| {
            into.borrow_mut().push(event);
            bell.notify_waiters();
        });
        Self { supervisor, events, news }
    }

    /// Waits until `found` in all that was told.
    async fn heard<T>(&self, what: &str, found: impl Fn(&[Event]) -> Option<T>) -> T {
        let search = async || loop {
            let news = self.news.notified();
            if let Some(found) = found(&self.events.borrow()) {
                return found;
            }
            news.await;
        };
        match timeout(PATIENCE, search()).await {
            Ok(found) => found,
            Err(_) => panic!("no {what}, but {:#?}", self.events.borrow()),
        }
    }

    /// Waits until the replica's last state is `wanted`.
    async fn state<T>(&self, process: usize, replica: u32, wanted: impl Fn(&State) -> Option<T>) -> T {
        self.heard("state as wanted", |events| {
            let state = |event: &Event| match &event.what {
                What::State(state) if (event.process, event.replica) == (process, replica) => {
                    Some(state.clone())
                }
                _ => None,
            };
            wanted(&events.iter().rev().find_map(state)?)
        })
        .await
    }

    /// Waits until the replica is ready; its port and process.
    async fn ready(&self, process: usize, replica: u32) -> (u16, u32) {
        let ready = |state: &State| match state {
            State::Ready { port, pid } => Some((*port, *pid)),
            _ => None,
        };
        self.state(process, replica, ready).await
    }

    fn states(&self, process: usize) -> Vec<(u32, State)> {
        let events = self.events.borrow();
        let states = events.iter().filter(|event| event.process == process).filter_map(|event| {
            if let What::State(state) = &event.what { Some((event.replica, state.clone())) } else { None }
        });
        states.collect()
    }

    fn lines<T>(&self, process: usize, wanted: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let events = self.events.borrow();
        let lines = events
            .iter()
            .filter(|event| event.process == process)
            .filter_map(|event| if let What::Line { text, .. } = &event.what { wanted(text) } else { None });
        lines.collect()
    }

    /// Waits for a line as wanted.
    async fn line<T>(&self, process: usize, wanted: impl Fn(&str) -> Option<T>) -> T {
        self.heard("line as wanted", |_| self.lines(process, &wanted).pop()).await
    }

    /// Every child says its process id first.
    fn pids_told(&self, process: usize) -> Vec<u32> {
        self.lines(process, |line| line.strip_prefix("pid ")?.parse().ok())
    }

    fn forget(&self) {
        self.events.borrow_mut().clear();
    }
}

/// Supervises `processes` during `test`.
fn run(processes: Vec<Settings>, test: impl AsyncFnOnce(&World)) {
    runtime().block_on(async {
        let world = World::start(processes);
        test(&world).await;
        patiently("everything stops", || world.supervisor.stop_all()).await;
    });
}

fn runtime() -> LocalRuntime {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap()
}

async fn patiently<F: Future<Output = ()>>(what: &str, wait: impl FnOnce() -> F) {
    assert!(timeout(PATIENCE, wait()).await.is_ok(), "waited in vain until {what}");
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(5)).await;
    }
}

/// A process that never gives up soon and is never killed soon, unless the test says otherwise.
fn settings(name: &str, mode: &str) -> Settings {
    Settings {
        name: name.into(),
        command: as_child(),
        env: vec![("MODE".into(), mode.into())],
        ready_timeout: PATIENCE,
        drain: PATIENCE,
        grace: PATIENCE * 2,
        ..Settings::default()
    }
}

fn replicas(replicas: u32, settings: Settings) -> Settings {
    Settings { replicas, ..settings }
}

/// The command that runs the test [`child`] alone.
fn as_child() -> Vec<String> {
    let program = std::env::current_exe().unwrap().display().to_string();
    [&program, "--exact", "child", "--ignored", "--nocapture"].map(String::from).to_vec()
}

/// The body of the answer to a GET.
fn get(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Whether there is no such process, not even as a zombie.
fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether there is no such process, or only as a zombie of somebody else.
fn dead(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap())
}

/// Much longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

// ------------------------------------------------------------------------------------------------------------------ child

#[test]
#[ignore = "the others start it, as their child"]
fn child() {
    let Ok(mode) = std::env::var("MODE") else { return };
    println!("\npid {}", std::process::id());
    match mode.as_str() {
        "serve" => serve(),
        "crash" => crash(),
        "crash-while-flag" if Path::new(&std::env::var("FLAG").unwrap()).exists() => crash(),
        "crash-while-flag" => serve(),
        "deaf" => loop {
            std::thread::park();
        },
        "allocate" => allocate(),
        "ignore-sigterm" => ignore_sigterm(),
        "family" => family(),
        "unavailable-at-first" => answer(&["503 Unavailable"; 3]),
        "flood" => flood(),
        "about" => about(),
        "supervise" => supervise(),
        other => panic!("what is {other}?"),
    }
}

fn serve() {
    answer(&[]);
}

/// Answers 200 with its process id, after the `first` answers with those statuses.
fn answer(first: &[&str]) {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut first = first.iter();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
        if head.by_ref().take_while(|line| !line.is_empty()).count() == 0 {
            // Somebody wanted to know whether the port is open.
            continue;
        }
        let status = first.next().inspect(|_| println!("not yet")).unwrap_or(&"200 OK");
        let body = std::process::id().to_string();
        let answer =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).unwrap();
    }
}

fn crash() {
    eprintln!("boom");
    std::process::exit(3);
}

fn allocate() {
    std::thread::spawn(serve);
    let mut eaten = Vec::new();
    for chunks in 1u64.. {
        eaten.push(vec![1u8; 16 << 20]);
        println!("eaten {}", chunks << 24);
    }
}

fn ignore_sigterm() {
    let runtime = runtime();
    let mut terms = runtime.block_on(async { signal(SignalKind::terminate()).unwrap() });
    std::thread::spawn(serve);
    loop {
        runtime.block_on(terms.recv());
        println!("no thanks");
    }
}

fn family() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let mut child = child.args(&as_child()[1..]).env("MODE", "deaf").spawn().unwrap();
    println!("child {}", child.id());
    serve();
    child.wait().unwrap();
}

fn flood() {
    std::thread::spawn(serve);
    let out = std::io::stdout();
    loop {
        writeln!(out.lock(), "flood of words").unwrap();
    }
}

fn about() {
    let arguments: Vec<String> = std::env::args().skip(as_child().len()).collect();
    let greeting = std::env::var("GREETING").unwrap();
    let dir = std::env::current_dir().unwrap();
    println!("about {arguments:?} {greeting:?} {dir:?} {}", std::env::var("PORT").unwrap());
    serve();
}

fn supervise() {
    runtime().block_on(async {
        let world = World::start(vec![replicas(2, settings("api", "serve"))]);
        for replica in 1..=2 {
            println!("ready {}", world.ready(0, replica).await.1);
        }
        std::future::pending::<()>().await;
    });
}

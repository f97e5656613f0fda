//! Who is compared, set up as alike as they can be: one worker, keep-alive on both sides, plain HTTP/1.1, their defaults otherwise.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Cpu, Process};

/// The length of the upstream's answer.
pub(crate) const ANSWER_BYTES: usize = 128;

/// Where everything runs and writes.
pub(crate) struct Place {
    folder: PathBuf,
    proxy_core: usize,
    upstream_core: usize,
    pub(crate) load_core: usize,
}

impl Place {
    /// The proxies on the first core, load and upstream on others as far as there are any.
    pub(crate) fn of_this_machine(folder: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let at_most = |core: usize| core.min(cores - 1);
        if cores == 1 {
            eprintln!("one core only: load, upstream and proxy take turns on it");
        }
        Self { folder: folder.to_path_buf(), proxy_core: 0, upstream_core: at_most(1), load_core: at_most(2) }
    }
}

/// Whose proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// None: the upstream itself.
    Direct,
    HaProxy,
    Nginx,
    Seaworthy,
}

impl What {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "none",
            Self::HaProxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Seaworthy => "seaworthy",
        }
    }
}

/// Whether each request leaves a line in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    Off,
    On,
}

impl Log {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
        }
    }
}

/// The service behind all of them.
pub(crate) struct Upstream {
    port: u16,
    _process: Process,
}

/// A running proxy.
pub(crate) struct Contestant {
    pub(crate) what: What,
    pub(crate) log: Log,
    port: u16,
    process: Option<Process>,
}

impl Contestant {
    /// No proxy at all: the upstream itself, for scale.
    pub(crate) fn direct(upstream: &Upstream) -> Self {
        Self { what: What::Direct, log: Log::Off, port: upstream.port, process: None }
    }

    /// Starts it and waits until it answers as the upstream does.
    ///
    /// # Errors
    /// It can't be started, or doesn't answer.
    pub(crate) fn start(
        what: What,
        log: Log,
        to: &Upstream,
        place: &Place,
        ours: &Path,
    ) -> Result<Self, String> {
        let port = free_port()?;
        let name = format!("{}-{}", what.name(), log.name());
        let folder = folder(place, &name)?;
        let (program, text) = match what {
            What::HaProxy => ("haproxy".into(), haproxy(port, to.port, log)),
            What::Nginx => ("nginx".into(), nginx_proxy(&folder, port, to.port, log)),
            What::Seaworthy => (ours.to_path_buf(), seaworthy(port, to.port, log)),
            What::Direct => return Err("there is nothing to start for a direct way".to_owned()),
        };
        let file = write(&folder.join("config"), &text)?;
        let arguments: Vec<&str> = match what {
            What::HaProxy => vec!["-db", "-f", &file],
            What::Nginx => vec!["-c", &file],
            _ => vec!["run", &file],
        };
        let output = folder.join("output");
        let mut process = Process::start(place.proxy_core, &find(program), &arguments, &output)?;
        process.wait_until(|| answers(port), &output)?;
        Ok(Self { what, log, port, process: Some(process) })
    }

    /// What the load asks for.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// The CPU time it used so far; none without a process of its own.
    ///
    /// # Errors
    /// It ended.
    pub(crate) fn cpu(&self) -> Result<Cpu, String> {
        self.process.as_ref().map_or(Ok(Cpu::default()), Process::cpu)
    }
}

/// Starts the upstream: an nginx that answers everything itself.
///
/// # Errors
/// It can't be started, or doesn't answer.
pub(crate) fn upstream(place: &Place) -> Result<Upstream, String> {
    let port = free_port()?;
    let folder = folder(place, "upstream")?;
    let body = "x".repeat(ANSWER_BYTES);
    let http =
        format!("server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 \"{body}\"; }} }}");
    let file = write(&folder.join("config"), &nginx(&folder, "access_log off;", &http))?;
    let output = folder.join("output");
    let mut process = Process::start(place.upstream_core, &find("nginx".into()), &["-c", &file], &output)?;
    process.wait_until(|| answers(port), &output)?;
    Ok(Upstream { port, _process: process })
}

/// nginx with one worker, which is also its master: one process to measure and to end.
fn nginx(folder: &Path, log: &str, http: &str) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error error;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n{temporary}{log}\nkeepalive_requests 1000000000;\n{http}\n}}\n"
    )
}

fn nginx_proxy(folder: &Path, port: u16, to: u16, log: Log) -> String {
    let log = match log {
        Log::Off => "access_log off;".to_owned(),
        Log::On => format!("access_log {}/access combined;", folder.display()),
    };
    let http = format!(
        "upstream fast {{ server 127.0.0.1:{to}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port} backlog=1024;\n location / {{ proxy_pass http://fast; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }}"
    );
    nginx(folder, &log, &http)
}

/// The log goes to standard output, which is a file here: HAProxy writes to no file itself.
fn haproxy(port: u16, to: u16, log: Log) -> String {
    let (target, option) = match log {
        Log::Off => ("", ""),
        Log::On => ("  log stdout format raw local0 info\n", "  log global\n  option httplog\n"),
    };
    format!(
        "global\n  nbthread 1\n  maxconn 4096\n{target}defaults\n  mode http\n{option}  timeout connect 1s\n  timeout client 60s\n  \
         timeout server 30s\nfrontend in\n  bind 127.0.0.1:{port}\n  default_backend fast\nbackend fast\n  \
         http-reuse always\n  server one 127.0.0.1:{to}\n"
    )
}

/// Every default policy is on: nothing but the addresses, the one worker and the log is said.
fn seaworthy(port: u16, to: u16, log: Log) -> String {
    let access = log == Log::On;
    format!(
        "listen = \"127.0.0.1:{port}\"\nadmin = \"off\"\nworkers = 1\n\n[log]\naccess = {access}\n\n[upstream.fast]\n\
         endpoints = \"http://127.0.0.1:{to}\"\n\n[[route]]\nupstream = \"fast\"\n"
    )
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

fn folder(place: &Place, name: &str) -> Result<PathBuf, String> {
    let folder = place.folder.join(name);
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
    Ok(folder)
}

fn write(file: &Path, text: &str) -> Result<String, String> {
    std::fs::write(file, text).map_err(|error| format!("{} can't be written: {error}", file.display()))?;
    Ok(file.display().to_string())
}

/// Debian keeps daemons where a user's path doesn't lead.
fn find(program: PathBuf) -> PathBuf {
    let inside = Path::new("/usr/sbin").join(&program);
    if inside.is_file() { inside } else { program }
}

/// Whether a request gets the upstream's answer.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let body = "x".repeat(ANSWER_BYTES);
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.ends_with(&body))
}

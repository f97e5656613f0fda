//! Who is compared, set up as alike as they can be: one worker, keep-alive on both sides, plain HTTP/1.1, their defaults otherwise.

use std::path::{Path, PathBuf};

use seaworthy_bench::process::{Cpu, Process, Start};
use seaworthy_bench::setup::{find, folder, free_port, get, nginx, write};

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
        let folder = folder(&place.folder, &name)?;
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
        let mut process = Process::start(&Start {
            program: &find(program),
            arguments: &arguments,
            output: &folder.join("output"),
            core: Some(place.proxy_core),
            leashed: false,
        })?;
        process.wait_for(|| answers(port).then_some(()))?;
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
    let folder = folder(&place.folder, "upstream")?;
    let body = "x".repeat(ANSWER_BYTES);
    let http =
        format!("server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 \"{body}\"; }} }}");
    let file = write(&folder.join("config"), &nginx(&folder, "access_log off;", &http))?;
    let mut process = Process::start(&Start {
        program: &find("nginx".into()),
        arguments: &["-c", &file],
        output: &folder.join("output"),
        core: Some(place.upstream_core),
        leashed: false,
    })?;
    process.wait_for(|| answers(port).then_some(()))?;
    Ok(Upstream { port, _process: process })
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

/// Whether a request gets the upstream's answer.
fn answers(port: u16) -> bool {
    let body = "x".repeat(ANSWER_BYTES);
    get(port, "/").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.ends_with(&body))
}

//! Who is compared, and how each is set up. Changes here belong into bench/README.md, which argues for every line.

use std::path::Path;

use seaworthy_bench::process::{Cpu, Process, Start};
use seaworthy_bench::setup::{find, free_port, get, nginx, ours, write};

/// What protects the upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Nothing: the callers go straight to it.
    Direct,
    Seaworthy,
    Nginx,
    HaProxy,
}

/// Everybody, in the order in which they run.
pub(crate) const EVERYBODY: [What; 4] = [What::Seaworthy, What::Nginx, What::HaProxy, What::Direct];

impl What {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Seaworthy => "seaworthy",
            Self::Nginx => "nginx",
            Self::HaProxy => "HAProxy",
        }
    }

    fn setup(self, folder: &Path, port: u16, to: u16) -> (&'static str, String) {
        match self {
            Self::Nginx => ("nginx", nginx_proxy(folder, port, to)),
            Self::HaProxy => ("haproxy", haproxy(port, to)),
            Self::Seaworthy | Self::Direct => ("", seaworthy(port, to)),
        }
    }
}

/// A running proxy, or none; it ends with this.
pub(crate) struct Contestant {
    port: u16,
    process: Option<Process>,
}

impl Contestant {
    /// Starts it and waits until it answers as the upstream does.
    ///
    /// # Errors
    /// It can't be started, or doesn't answer.
    pub(crate) fn start(what: What, to: u16, folder: &Path) -> Result<Self, String> {
        if what == What::Direct {
            return Ok(Self { port: to, process: None });
        }
        let port = free_port()?;
        let (program, text) = what.setup(folder, port, to);
        let file = write(&folder.join("config"), &text)?;
        let (program, arguments): (_, &[&str]) = match program {
            "nginx" => (find(program.into()), &["-c", &file]),
            "haproxy" => (find(program.into()), &["-db", "-f", &file]),
            _ => (ours(), &["run", &file]),
        };
        let output = &folder.join("proxy");
        let mut process =
            Process::start(&Start { program: &program, arguments, output, core: None, leashed: false })?;
        let answers = || get(port, "/").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
        process.wait_for(|| answers().then_some(()))?;
        Ok(Self { port, process: Some(process) })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The CPU time that it used so far; none without a process.
    ///
    /// # Errors
    /// It ended.
    pub(crate) fn cpu(&self) -> Result<Cpu, String> {
        self.process.as_ref().map_or(Ok(Cpu::default()), Process::cpu)
    }

    /// Makes sure that it runs at the end: nobody else ended it.
    ///
    /// # Errors
    /// It ended.
    pub(crate) fn check_that_it_runs(&mut self) -> Result<(), String> {
        self.process.as_mut().map_or(Ok(()), Process::check_that_it_runs)
    }
}

/// A few more than the upstream has workers, so that none of them waits for its next call to arrive.
const IN_FLIGHT: u32 = 24;

fn seaworthy(port: u16, to: u16) -> String {
    format!(
        "listen = \"127.0.0.1:{port}\"\nadmin = \"off\"\nworkers = 1\n\n[log]\naccess = false\n\n[upstream.capacity]\n\
         endpoints = \"http://127.0.0.1:{to}\"\ndeadline = \"300ms\"\nbulkhead = {{ mode = \"off\" }}\n\n\
         [upstream.capacity.limit]\nmax_in_flight = {IN_FLIGHT}\n\n[upstream.capacity.limit.queue]\nmax_wait = \"150ms\"\n\n\
         [[route]]\nupstream = \"capacity\"\n"
    )
}

/// It has no queue before an upstream in its free edition: what is above the limit is refused.
fn nginx_proxy(folder: &Path, port: u16, to: u16) -> String {
    let http = format!(
        "limit_conn_zone $server_name zone=calls:1m;\n\
         upstream capacity {{\n  server 127.0.0.1:{to} max_fails=0;\n  keepalive 64;\n  keepalive_requests 1000000000;\n}}\n\
         server {{\n  listen 127.0.0.1:{port} backlog=4096;\n  server_name capacity;\n  location / {{\n    limit_conn calls {IN_FLIGHT};\n    \
         proxy_pass http://capacity;\n    proxy_http_version 1.1;\n    proxy_set_header Connection \"\";\n    \
         proxy_connect_timeout 1s;\n    proxy_read_timeout 300ms;\n    proxy_next_upstream off;\n  }}\n}}"
    );
    nginx(folder, "access_log off;\nlimit_conn_log_level info;", &http)
}

fn haproxy(port: u16, to: u16) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  \
         timeout server 300ms\n  timeout queue 150ms\n  option abortonclose\nfrontend in\n  bind 127.0.0.1:{port} backlog 4096\n  \
         default_backend capacity\nbackend capacity\n  http-reuse always\n  retries 0\n  \
         server one 127.0.0.1:{to} maxconn {IN_FLIGHT}\n"
    )
}

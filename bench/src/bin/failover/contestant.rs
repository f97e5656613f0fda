//! Who is compared, and how each is set up. Changes here belong into bench/README.md, which argues for every line.

use std::fmt::Write as _;
use std::path::Path;

use seaworthy_bench::process::{Process, Start};
use seaworthy_bench::setup::{find, free_port, get, nginx, ours, write};

use crate::shop::PATH;

/// Whose proxy, and how it chooses an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Every default.
    Seaworthy,
    /// In turn, which is its default.
    NginxInTurn,
    /// The less busy of two drawn by lot.
    NginxOfTwo,
    /// In turn, which is its default.
    HaProxyInTurn,
    /// The less busy of two drawn by lot.
    HaProxyOfTwo,
}

/// Everybody, in the order in which they run.
pub(crate) const EVERYBODY: [What; 5] =
    [What::Seaworthy, What::NginxInTurn, What::NginxOfTwo, What::HaProxyInTurn, What::HaProxyOfTwo];

impl What {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Seaworthy => "seaworthy",
            Self::NginxInTurn => "nginx in turn",
            Self::NginxOfTwo => "nginx of two",
            Self::HaProxyInTurn => "HAProxy in turn",
            Self::HaProxyOfTwo => "HAProxy of two",
        }
    }

    /// Asks for its version, so that who is missing is missed before anybody was measured.
    ///
    /// # Errors
    /// It is missing; with what to do.
    pub(crate) fn check_that_it_is_there(self) -> Result<(), String> {
        let (program, flag, remedy) = match self {
            Self::Seaworthy => (ours(), "--version", "cargo build --release --package seaworthy-cli"),
            Self::NginxInTurn | Self::NginxOfTwo => {
                (find("nginx".into()), "-v", "on Debian, as root: apt-get install nginx-light")
            }
            Self::HaProxyInTurn | Self::HaProxyOfTwo => {
                (find("haproxy".into()), "-v", "on Debian, as root: apt-get install haproxy")
            }
        };
        let said = std::process::Command::new(&program).arg(flag).output();
        let missing = |error: String| format!("{} can't be started: {error} ({remedy})", program.display());
        match said {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(missing(format!("`{flag}` ended with {}", output.status))),
            Err(error) => Err(missing(error.to_string())),
        }
    }

    /// Its program, and its configuration as it listens on `port` and passes on to `to`.
    fn setup(self, folder: &Path, port: u16, to: &[u16]) -> (&'static str, String) {
        match self {
            Self::Seaworthy => ("", seaworthy(port, to)),
            Self::NginxInTurn => ("nginx", nginx_proxy(folder, port, to, "")),
            Self::NginxOfTwo => ("nginx", nginx_proxy(folder, port, to, "random two least_conn;")),
            Self::HaProxyInTurn => ("haproxy", haproxy(port, to, "roundrobin")),
            Self::HaProxyOfTwo => ("haproxy", haproxy(port, to, "random(2)")),
        }
    }
}

/// A running proxy; it ends with this.
pub(crate) struct Contestant {
    port: u16,
    process: Process,
}

impl Contestant {
    /// Starts it and waits until it answers as the instances do.
    ///
    /// # Errors
    /// It can't be started, or doesn't answer.
    pub(crate) fn start(what: What, to: &[u16], folder: &Path) -> Result<Self, String> {
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
        let answers = || get(port, PATH).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
        process.wait_for(|| answers().then_some(()))?;
        Ok(Self { port, process })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Makes sure that it runs at the end: nobody else ended it.
    ///
    /// # Errors
    /// It ended.
    pub(crate) fn check_that_it_runs(&mut self) -> Result<(), String> {
        self.process.check_that_it_runs()
    }
}

/// Nothing is said but the addresses, the one worker and that there is no access log.
fn seaworthy(port: u16, to: &[u16]) -> String {
    let endpoints: Vec<String> = to.iter().map(|port| format!("\"http://127.0.0.1:{port}\"")).collect();
    format!(
        "listen = \"127.0.0.1:{port}\"\nadmin = \"off\"\nworkers = 1\n\n[log]\naccess = false\n\n[upstream.shop]\n\
         endpoints = [{}]\n\n[[route]]\nupstream = \"shop\"\n",
        endpoints.join(", ")
    )
}

fn nginx_proxy(folder: &Path, port: u16, to: &[u16], balance: &str) -> String {
    let mut servers = String::new();
    for port in to {
        // Writing to a String can't fail.
        let _infallible = writeln!(servers, "  server 127.0.0.1:{port} max_fails=1 fail_timeout=10s;");
    }
    let http = format!(
        "upstream shop {{\n  {balance}\n{servers}  keepalive 64;\n  keepalive_requests 1000000000;\n}}\n\
         server {{\n  listen 127.0.0.1:{port} backlog=1024;\n  location / {{\n    proxy_pass http://shop;\n    \
         proxy_http_version 1.1;\n    proxy_set_header Connection \"\";\n    proxy_connect_timeout 1s;\n    \
         proxy_send_timeout 5s;\n    proxy_read_timeout 5s;\n    proxy_next_upstream error timeout;\n  }}\n}}"
    );
    nginx(folder, "access_log off;", &http)
}

fn haproxy(port: u16, to: &[u16], balance: &str) -> String {
    let mut servers = String::new();
    for (number, port) in to.iter().enumerate() {
        let _infallible = writeln!(servers, "  server shop{number} 127.0.0.1:{port}");
    }
    format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  \
         timeout server 5s\nfrontend in\n  bind 127.0.0.1:{port}\n  default_backend shop\nbackend shop\n  balance {balance}\n  \
         http-reuse always\n  retries 3\n  option redispatch 1\n  retry-on conn-failure empty-response response-timeout 503\n  \
         option httpchk GET /health\n  http-check expect status 200\n  \
         default-server check inter 1s fall 2 rise 2\n{servers}"
    )
}

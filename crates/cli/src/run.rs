//! `seaworthy run`: the proxy.

use std::io::{self, Read};
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seaworthy_config::{Config, Upstream};
use seaworthy_core::Mode;
use seaworthy_proxy::Proxy;

use crate::failure::Failure;
use crate::out;

/// Run the proxy in front of one service, or as a file says
///
/// Prints where it listens and which policies are on, then serves until SIGINT or SIGTERM. Calls in flight are finished
/// before it ends.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  seaworthy run --to http://localhost:3000                 every default on, listening on 127.0.0.1:8080
  seaworthy run --to http://localhost:3000 --listen 0.0.0.0:80 --admin off
  seaworthy run seaworthy.toml")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["file", "to"]))]
pub(crate) struct Args {
    /// The configuration
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The one service to put a proxy in front of
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Where clients connect, in place of 127.0.0.1:8080
    #[arg(long, value_name = "ADDR", requires = "to")]
    listen: Option<String>,
    /// Where operators connect, in place of 127.0.0.1:9901; `off` for nowhere
    #[arg(long, value_name = "ADDR", requires = "to")]
    admin: Option<String>,
    /// End when stdin does, so as not to outlive whoever holds its other end
    #[arg(long, hide = true)]
    leashed: bool,
}

/// Serves until it is told to stop.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    if args.leashed {
        end_with_stdin();
    }
    let config = config(args)?;
    let mut about = about(&config);
    about.extend(scarce(open_files(), config.limits.max_connections));
    let failed = |error| Failure::because("the proxy failed", error);
    let bound = Proxy::bind(config).map_err(failed)?;
    // Said once it is true: the addresses are bound, and a port that was left to the system is known.
    let listen: Vec<String> = bound.addresses().iter().map(ToString::to_string).collect();
    let admin = bound.admin().map_or_else(|| "off".to_owned(), |address| format!("http://{address}"));
    out::line(&format!("seaworthy {}", env!("CARGO_PKG_VERSION")))?;
    out::line(&format!("  listen    {}\n  admin     {admin}", listen.join(", ")))?;
    out::line(&about.join("\n"))?;
    seaworthy_proxy::run_bound(bound).map_err(failed)
}

fn config(args: &Args) -> Result<Config, Failure> {
    let read = match (&args.file, &args.to) {
        (Some(file), _) => Config::from_toml(&file.display().to_string(), &crate::check::read(file)?),
        (None, Some(to)) => Config::from_command_line(to, args.listen.as_deref(), args.admin.as_deref()),
        // The command line can't be read without one of them.
        (None, None) => return Err(Failure::new("neither a file nor --to was given")),
    };
    read.map_err(|mistakes| Failure::new(format!("the configuration has mistakes\n\n{mistakes}")))
}

/// Ends the process, without ceremony, once stdin does: whoever held the other end is gone.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let mut bytes = [0; 64];
        while let Ok(1..) = io::stdin().lock().read(&mut bytes) {}
        std::process::exit(0);
    });
}

/// Asks for as many open files as the system lets a process have, and returns how many that is. The usual limit of 1024
/// is for programs that call select(2); with every file taken by a client, no upstream can be reached.
fn open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
}

/// A warning if clients may take all the open files there are: each needs one, and its upstream another.
fn scarce(files: u64, max_connections: u32) -> Option<String> {
    let wanted = 2 * u64::from(max_connections);
    (files < wanted).then(|| {
        format!(
            "\nwarning: {max_connections} connections may need {wanted} open files, and the system allows {files}\n  \
             = raise the limit (ulimit -n), or lower limits.max_connections"
        )
    })
}

/// What is about to be served: for each upstream its endpoints and which policies are on, the routes, the warnings.
fn about(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for upstream in &config.upstreams {
        let sources: Vec<String> = upstream.sources.iter().map(|source| config.spelt(&source.at)).collect();
        lines.push(format!("  upstream  {} at {}", upstream.name, sources.join(", ")));
        lines.extend(policies(upstream));
    }
    for route in &config.routes {
        let upstream = config.upstreams.get(route.upstream).map_or("?", |upstream| &upstream.name);
        let fallback = if route.fallback.is_some() { ", with a fallback" } else { "" };
        lines.push(format!("  route     {} to {upstream}{fallback}", route.name));
    }
    for process in &config.processes {
        lines.push(format!(
            "  process   {} times {}: {}",
            process.replicas,
            process.name,
            process.command.join(" ")
        ));
    }
    lines.extend(config.warnings.iter().map(|warning| format!("\n{warning}")));
    lines
}

/// The policies of an upstream, one line for each mode that any is in.
fn policies(upstream: &Upstream) -> Vec<String> {
    let call = &upstream.call;
    let timeout =
        call.timeout.fixed.map_or_else(|| "timeout learned".to_owned(), |fixed| format!("timeout {fixed:?}"));
    let check = upstream.check.as_ref();
    let check = check.map(|check| (Mode::Enforce, format!("check {}", check.kind.name())));
    let all = [
        (call.timeout.mode, timeout),
        (call.retry.mode, format!("retry to {} attempts", call.retry.attempts)),
        (call.hedge.mode, "hedge".to_owned()),
        (upstream.breaker.mode, "breaker".to_owned()),
        (upstream.outlier.mode, "outlier".to_owned()),
        (upstream.limit.mode, format!("limit {}", upstream.limit.max_in_flight)),
        (upstream.bulkhead.mode, format!("bulkhead {}", upstream.bulkhead.concurrency)),
    ];
    let modes = [(Mode::Enforce, "on"), (Mode::Observe, "observing"), (Mode::Off, "off")];
    let of_mode = |(wanted, name): (Mode, &str)| {
        let names: Vec<&str> = all
            .iter()
            .chain(&check)
            .filter(|(mode, _)| *mode == wanted)
            .map(|(_, name)| name.as_str())
            .collect();
        (!names.is_empty()).then(|| format!("            {name}: {}", names.join(", ")))
    };
    modes.into_iter().filter_map(of_mode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_open_files_are_told() {
        assert_eq!(scarce(20_000, 10_000), None);
        assert!(scarce(19_999, 10_000).is_some_and(|warning| warning.contains("19999")));
    }
}

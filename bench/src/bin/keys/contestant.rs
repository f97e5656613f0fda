//! Who is compared, and how each is set up. Changes here belong into bench/README.md, which argues for every line.

use std::path::Path;

use seaworthy_bench::process::{Cpu, Process, Start};
use seaworthy_bench::setup::{find, folder, free_port, get, nginx, ours, write};

/// The length of the upstream's answer.
pub(crate) const ANSWER_BYTES: usize = 128;

/// What stands between load and upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// The proxy, with a route that knows no keys.
    Without,
    /// The proxy with its keys in memory: what all but the store costs.
    Memory,
    /// The proxy with its keys in a file.
    Embedded,
    Redis,
    /// What one writes with Redis in an afternoon.
    PlainRedis,
    Postgres,
    /// What one writes with PostgreSQL in an afternoon.
    PlainPostgres,
}

/// Everybody, in the order in which they run.
pub(crate) const EVERYBODY: [What; 7] = [
    What::Without,
    What::Memory,
    What::Embedded,
    What::Redis,
    What::PlainRedis,
    What::Postgres,
    What::PlainPostgres,
];

impl What {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Without => "seaworthy without keys",
            Self::Memory => "seaworthy, memory",
            Self::Embedded => "seaworthy, embedded",
            Self::Redis => "seaworthy, Redis",
            Self::PlainRedis => "middleware, Redis",
            Self::Postgres => "seaworthy, PostgreSQL",
            Self::PlainPostgres => "middleware, PostgreSQL",
        }
    }

    fn folder(self) -> String {
        self.name().replace([' ', ','], "-")
    }
}

/// Where everything is that they share.
pub(crate) struct Place<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) upstream: u16,
    pub(crate) redis: String,
    pub(crate) postgres: String,
}

/// A running contestant; it ends with this.
pub(crate) struct Contestant {
    pub(crate) what: What,
    port: u16,
    process: Process,
}

impl Contestant {
    /// Starts it and waits until it answers as the upstream does.
    ///
    /// # Errors
    /// It can't be started, or doesn't answer.
    pub(crate) fn start(what: What, place: &Place<'_>) -> Result<Self, String> {
        let port = free_port()?;
        let own = folder(place.folder, &what.folder())?;
        let (program, arguments) = match what {
            What::PlainRedis | What::PlainPostgres => {
                let url = if what == What::PlainRedis { &place.redis } else { &place.postgres };
                (middleware()?, vec![port.to_string(), place.upstream.to_string(), url.clone()])
            }
            _ => {
                folder(&own, "data")?;
                let file = write(&own.join("config"), &seaworthy(what, port, place, &own))?;
                (ours(), vec!["run".to_owned(), file])
            }
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = &own.join("output");
        let mut process = Process::start(&Start {
            program: &program,
            arguments: &arguments,
            output,
            core: None,
            leashed: false,
        })?;
        process.wait_for(|| answers(port).then_some(()))?;
        Ok(Self { what, port, process })
    }

    /// What the load asks for.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/pay", self.port)
    }

    /// The CPU time that it used so far.
    ///
    /// # Errors
    /// It ended.
    pub(crate) fn cpu(&self) -> Result<Cpu, String> {
        self.process.cpu()
    }

    /// The memory that it has now, in bytes.
    ///
    /// # Errors
    /// It ended.
    pub(crate) fn resident(&self) -> Result<u64, String> {
        self.process.resident()
    }
}

/// The middleware, which is built beside this program.
fn middleware() -> Result<std::path::PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    Ok(this.with_file_name("keys_middleware"))
}

/// With and without keys all is the same but for the one table. The bulkhead would let 128 of the 256 connections in, and turn the rest away.
fn seaworthy(what: What, port: u16, place: &Place<'_>, own: &Path) -> String {
    let store = match what {
        What::Memory => "store = \"memory\"\nrecords = 1000000".to_owned(),
        What::Redis => format!("store = \"redis\"\n[redis]\nurl = \"{}\"", place.redis),
        What::Postgres => format!("store = \"postgres\"\nurl = \"{}\"", place.postgres),
        _ => "store = \"embedded\"".to_owned(),
    };
    let (store, keys) = match what {
        What::Without => (String::new(), ""),
        _ => (format!("[idempotency]\n{store}\n"), "[route.idempotency]\nrequired = false\n"),
    };
    format!(
        "listen = \"127.0.0.1:{port}\"\nadmin = \"off\"\ndata = \"{}\"\npressure.mode = \"off\"\n[log]\naccess = false\n{store}\
         [upstream.fast]\nendpoints = \"http://127.0.0.1:{}\"\nbulkhead.mode = \"off\"\n\
         [[route]]\nname = \"pay\"\nupstream = \"fast\"\nclient_key = \"header:x-api-key\"\n{keys}",
        own.join("data").display(),
        place.upstream,
    )
}

/// Starts the upstream: an nginx that answers everything itself.
///
/// # Errors
/// It can't be started, or doesn't answer.
pub(crate) fn upstream(place: &Path) -> Result<(u16, Process), String> {
    let port = free_port()?;
    let own = folder(place, "upstream")?;
    let body = "x".repeat(ANSWER_BYTES);
    let http =
        format!("server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 \"{body}\"; }} }}");
    let file = write(&own.join("config"), &nginx(&own, "access_log off;", &http))?;
    let mut process = Process::start(&Start {
        program: &find("nginx".into()),
        arguments: &["-c", &file],
        output: &own.join("output"),
        core: None,
        leashed: false,
    })?;
    process.wait_for(|| answers(port).then_some(()))?;
    Ok((port, process))
}

/// Whether a request gets the upstream's answer.
fn answers(port: u16) -> bool {
    let body = "x".repeat(ANSWER_BYTES);
    get(port, "/").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.ends_with(&body))
}

//! The real proxy, as a process that is killed and started again.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// A proxy; it is killed when this is dropped.
pub(crate) struct Proxy {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Proxy {
    /// Starts it with this text as its file and these variables, without waiting for it. What it says stands in `folder`.
    pub(crate) fn start(folder: &Path, config: &str, variables: &[(&str, &str)]) -> Self {
        let file = folder.join("seaworthy.toml");
        std::fs::write(&file, config).unwrap();
        let said = File::options().append(true).create(true).open(folder.join("stderr")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_seaworthy"));
        command.arg("run").arg(file).envs(variables.iter().copied()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(said).spawn().unwrap();
        let out = child.stdout.take().map(BufReader::new);
        Self { child, out }
    }

    /// Where it listens; waits until it does.
    pub(crate) fn address(&mut self, folder: &Path) -> SocketAddr {
        let mut lines = self.out.take().expect("it is asked once").lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.trim().strip_prefix("listen")?.trim().parse().ok());
        // It may write more, and must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        address.unwrap_or_else(|| panic!("the proxy does not listen; it said:\n{}", said(folder)))
    }

    /// Stops it where it stands: what it has not done by now, it never does if it is killed next.
    pub(crate) fn stop(&self) {
        let process = Pid::from_child(&self.child);
        kill_process(process, Signal::STOP).expect("it was not waited for");
        // That it has ended instead is for `kill` to see.
        let stopped_or_gone = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(process), stopped_or_gone).expect("it was not waited for");
    }

    /// With SIGKILL.
    pub(crate) fn kill(&mut self, folder: &Path) {
        if let Some(ended) = self.child.try_wait().unwrap() {
            panic!("the proxy ended by itself ({ended}); it said:\n{}", said(folder));
        }
        self.end();
    }

    fn end(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last of what proxies said in this folder.
pub(crate) fn said(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

//! The three instances behind every contestant: the demo's service, each a process of its own.

use std::path::{Path, PathBuf};

use seaworthy_bench::process::{Process, Start};
use seaworthy_bench::setup::{get, ours};

/// As many as the smallest number that survives the loss of one with a choice left.
pub(crate) const INSTANCES: usize = 3;

/// What every call asks for.
pub(crate) const PATH: &str = "/shop/1";

/// What the body of every good answer begins with.
pub(crate) const ANSWER: &[u8] = br#"{"service":"shop","#;

/// Running instances; they end with this.
pub(crate) struct Shop {
    instances: Vec<Instance>,
    place: PathBuf,
}

struct Instance {
    port: u16,
    process: Process,
}

impl Shop {
    /// Starts them all and waits until they answer.
    ///
    /// # Errors
    /// One can't be started, or doesn't answer.
    pub(crate) fn open(place: &Path) -> Result<Self, String> {
        let instances = (0..INSTANCES).map(|number| start(number, 0, place)).collect::<Result<_, _>>()?;
        Ok(Self { instances, place: place.to_path_buf() })
    }

    /// Where they listen.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.instances.iter().map(|instance| instance.port).collect()
    }

    /// Ends one with SIGKILL.
    ///
    /// # Errors
    /// It could not be killed.
    pub(crate) fn kill(&mut self, number: usize) -> Result<(), String> {
        self.instances[number].process.kill()
    }

    /// Starts one that was killed on its old port, and waits until it answers.
    ///
    /// # Errors
    /// It can't be started, or doesn't answer.
    pub(crate) fn restart(&mut self, number: usize) -> Result<(), String> {
        self.instances[number] = start(number, self.instances[number].port, &self.place)?;
        Ok(())
    }

    /// Makes sure that they all run at the end: nobody else ended one.
    ///
    /// # Errors
    /// One ended.
    pub(crate) fn check_that_all_run(&mut self) -> Result<(), String> {
        self.instances.iter_mut().try_for_each(|instance| instance.process.check_that_it_runs())
    }

    /// Sends one the signal of this name.
    ///
    /// # Errors
    /// It could not be sent.
    pub(crate) fn signal(&self, number: usize, name: &str) -> Result<(), String> {
        self.instances[number].process.signal(name)
    }
}

/// Starts an instance; without a port it takes one from below the range of outgoing connections, so that the port is still
/// free when it comes back.
fn start(number: usize, port: u16, place: &Path) -> Result<Instance, String> {
    let name = (number + 1).to_string();
    let output = place.join(format!("instance-{name}"));
    let mut process = Process::start(&Start {
        program: &ours(),
        arguments: &[
            "demo-service",
            "--name",
            "shop",
            "--instance",
            &name,
            "--port",
            &port.to_string(),
            "--seed",
            &name,
        ],
        output: &output,
        core: None,
        leashed: true,
    })?;
    let port = process.wait_for(|| port_in(&std::fs::read_to_string(&output).ok()?))?;
    process
        .wait_for(|| get(port, PATH).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")).then_some(()))?;
    Ok(Instance { port, process })
}

/// The port in the line that an instance greets with, once it is there as a whole.
fn port_in(printed: &str) -> Option<u16> {
    let (line, _) = printed.split_once('\n')?;
    line.strip_prefix("ready ")?.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::port_in;

    #[test]
    fn the_greeting_is_read_once_it_is_whole() {
        assert_eq!(port_in("ready 127.0.0.1:20123\n"), Some(20123));
        assert_eq!(port_in("ready 127.0.0.1:201"), None);
        assert_eq!(port_in("sorry\n"), None);
    }
}

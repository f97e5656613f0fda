//! The demo's child processes, and the promise that none outlives it.
//!
//! Four things keep that promise, whichever way the parent ends:
//!
//! * dropping a [`Process`] kills and reaps it, with SIGKILL, which a stopped process obeys too;
//! * every child holds a pipe from the parent as its stdin and ends when the pipe does, which covers a parent that
//!   could not drop anything because it was killed itself;
//! * every child has a process group of its own. Ctrl-C then reaches the parent alone, which ends the others in order.
//!   And when the parent of a *stopped* child dies, the child's group is orphaned, so the kernel sends it SIGHUP and
//!   SIGCONT (POSIX, `_exit`, "Consequences of Process Termination"): a frozen child can't be left behind either;
//! * unless it was being stopped at that very moment, and does not count as stopped yet. So on Linux every instance is
//!   also killed by the kernel when the thread that started it ends, which is the parent's main one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::script::{Fault, Target};
use super::service;
use crate::failure::Failure;

/// The services of the shop, in the order of every table.
pub(super) const SERVICES: [&str; 4] = ["catalog", "prices", "recommendations", "orders"];
/// Where orders are placed.
pub(super) const ORDERS: usize = 3;
/// What changes slowly, so that the last list is better than none.
pub(super) const PRICES: usize = 1;
/// What the shop has a stand-in for.
pub(super) const RECOMMENDATIONS: usize = 2;
/// What serves the shop's page, and the items that everybody buys.
pub(super) const STOREFRONT: &str = "shop";
/// What the page needs besides [`SERVICES`], and the traffic does not ask.
pub(super) const SIDES: [&str; 2] = [STOREFRONT, FLAG_SERVICE];
/// What says who gets the new checkout, over OFREP.
pub(super) const FLAG_SERVICE: &str = "flags";
/// Its place among [`SERVICES`] and [`SIDES`].
pub(super) const FLAGS: usize = SERVICES.len() + 1;
/// Which instances each of [`SIDES`] has: one in each region.
pub(super) const SIDE_NUMBERS: [usize; 2] = [1, NEAR_INSTANCES + 1];
/// Where the instances stand. The customers and the proxy are in the first region.
pub(super) const REGIONS: [&str; 2] = ["near", "far"];
/// Which of [`REGIONS`] the customers and the proxy are in.
pub(super) const NEAR: usize = 0;
/// The other one.
pub(super) const FAR: usize = 1;
/// Instances of each service, those of the near region first.
pub(super) const INSTANCES: usize = 5;
/// How many of them are near.
pub(super) const NEAR_INSTANCES: usize = 3;
/// What the way to the far region and back adds to a call: as much as between two regions of one continent.
pub(super) const DISTANCE: Duration = Duration::from_millis(20);

/// The name of a service: those of [`SERVICES`], and then those of [`SIDES`].
pub(super) fn name_of(service: usize) -> &'static str {
    SERVICES.iter().chain(&SIDES).nth(service).copied().unwrap_or("?")
}

/// In which of [`REGIONS`] instance `number` of a service stands.
pub(super) const fn region_of(number: usize) -> usize {
    if number <= NEAR_INSTANCES { NEAR } else { FAR }
}

/// A child process.
pub(super) struct Process {
    name: String,
    child: Child,
    /// The leash: the child ends when this closes.
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts `command`, whose stdin becomes the leash.
    pub(super) fn start(name: impl Into<String>, command: &mut Command) -> Result<Self, Failure> {
        let name = name.into();
        let mut child = command
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::because(format!("could not start {name}"), error))?;
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin })
    }

    /// This very program, as `argument ...`.
    pub(super) fn ourselves(argument: &str) -> Result<Command, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::because("could not find the path of this program", error))?;
        let mut command = Command::new(program);
        command.arg(argument);
        Ok(command)
    }

    /// Writes a line to its stdin.
    fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let written = match &mut self.stdin {
            Some(stdin) => stdin.write_all(format!("{line}\n").as_bytes()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        written.map_err(|error| Failure::because(format!("could not tell {} to {line}", self.name), error))
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        // A process id fits in the kernel's 32 signed bits; it is ours until we wait for it, so it can't be another's.
        let id = i32::try_from(self.child.id()).map_err(|error| Failure::because("odd process id", error))?;
        signal::kill(Pid::from_raw(id), signal)
            .map_err(|error| Failure::because(format!("could not send {signal} to {}", self.name), error))
    }

    /// Kills it with SIGKILL and reaps it.
    fn kill(&mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(|_| ()).map_err(|error| Failure::because(format!("could not kill {}", self.name), error))
    }

    /// A failure if it ended without being told to.
    pub(super) fn must_live(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Failure::new(format!("{} ended by itself: {status}", self.name))),
            Err(error) => Err(Failure::because(format!("could not look after {}", self.name), error)),
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and been reaped already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole shop: every instance of every service.
pub(super) struct Shop {
    instances: Vec<Instance>,
}

struct Instance {
    service: usize,
    number: usize,
    seed: u64,
    address: SocketAddr,
    /// `None` while it is killed.
    process: Option<Process>,
}

/// The instances' addresses, by service.
pub(super) type Addresses = [[SocketAddr; INSTANCES]; SERVICES.len()];
/// The like of [`SIDES`], in the order of [`SIDE_NUMBERS`].
pub(super) type SideAddresses = [[SocketAddr; SIDE_NUMBERS.len()]; SIDES.len()];

impl Shop {
    /// Starts every instance and waits until each has said where it listens.
    pub(super) async fn open(seed: u64) -> Result<Self, Failure> {
        let services =
            (0..SERVICES.len()).flat_map(|service| (1..=INSTANCES).map(move |number| (service, number)));
        let sides =
            (0..SIDES.len()).flat_map(|side| SIDE_NUMBERS.map(|number| (SERVICES.len() + side, number)));
        let mut started = Vec::new();
        for (service, number) in services.chain(sides) {
            // Every instance draws its own service times.
            let seed = seed.wrapping_mul(31).wrapping_add((service * INSTANCES + number) as u64);
            started.push((service, number, seed, start_instance(service, number, 0, seed)?));
        }
        let mut instances = Vec::new();
        for (service, number, seed, (process, greeting)) in started {
            let address = address_of(&process.name, greeting).await?;
            instances.push(Instance { service, number, seed, address, process: Some(process) });
        }
        Ok(Self { instances })
    }

    pub(super) fn addresses(&self) -> Addresses {
        std::array::from_fn(|service| std::array::from_fn(|n| self.address(service, n + 1)))
    }

    pub(super) fn sides(&self) -> SideAddresses {
        std::array::from_fn(|side| SIDE_NUMBERS.map(|number| self.address(SERVICES.len() + side, number)))
    }

    fn address(&self, service: usize, number: usize) -> SocketAddr {
        let is_it = |instance: &&Instance| (instance.service, instance.number) == (service, number);
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        self.instances.iter().find(is_it).map_or(nobody, |instance| instance.address)
    }

    /// The process ids of what lives in a region.
    pub(super) fn ids(&self, region: usize) -> Vec<u32> {
        let there = self.instances.iter().filter(|instance| region_of(instance.number) == region);
        there.filter_map(|instance| instance.process.as_ref()).map(Process::id).collect()
    }

    /// A failure if any instance ended that nobody killed.
    pub(super) fn must_live(&mut self) -> Result<(), Failure> {
        self.instances
            .iter_mut()
            .filter_map(|instance| instance.process.as_mut())
            .try_for_each(Process::must_live)
    }

    /// Does `fault` to `target`.
    pub(super) fn inject(&mut self, fault: Fault, target: Target) -> Result<(), Failure> {
        for instance in self.hit_by(target) {
            let Some(process) = &mut instance.process else { continue };
            match fault {
                Fault::Killed | Fault::Gone => {
                    process.kill()?;
                    instance.process = None;
                }
                Fault::Frozen | Fault::Lost => process.signal(Signal::SIGSTOP)?,
                Fault::Slow => process.tell(&format!("slow {SLOW_TIMES}"))?,
                Fault::Failing => process.tell(&format!("fail {FAIL_SHARE}"))?,
            }
        }
        Ok(())
    }

    /// Undoes [`Shop::inject`]; what was killed returns on its old port.
    pub(super) async fn heal(&mut self, fault: Fault, target: Target) -> Result<(), Failure> {
        let mut greetings = Vec::new();
        for instance in self.hit_by(target) {
            match (&mut instance.process, fault) {
                (Some(process), Fault::Frozen | Fault::Lost) => process.signal(Signal::SIGCONT)?,
                (Some(process), _) => process.tell("well")?,
                (None, _) => {
                    let port = instance.address.port();
                    let (process, greeting) =
                        start_instance(instance.service, instance.number, port, instance.seed)?;
                    greetings.push((process.name.clone(), greeting));
                    instance.process = Some(process);
                }
            }
        }
        // All are started before the first is waited for, so that they return together.
        for (name, greeting) in greetings {
            address_of(&name, greeting).await?;
        }
        Ok(())
    }

    fn hit_by(&mut self, target: Target) -> impl Iterator<Item = &mut Instance> {
        self.instances.iter_mut().filter(move |instance| target.is_hit(instance.service, instance.number))
    }
}

/// Starts an instance; the receiver gets the first line that it prints.
fn start_instance(
    service: usize,
    number: usize,
    port: u16,
    seed: u64,
) -> Result<(Process, oneshot::Receiver<String>), Failure> {
    let name = name_of(service);
    let mut command = Process::ourselves("demo-service")?;
    command
        .args(["--name", name])
        .args(["--instance", &number.to_string()])
        .args(["--port", &port.to_string()])
        .args(["--seed", &seed.to_string()])
        .arg("--with-parent");
    if region_of(number) == FAR {
        command.args(["--distance", &format!("{}ms", DISTANCE.as_millis())]);
    }
    let mut process = Process::start(format!("{name}/{number}"), command.stdout(Stdio::piped()))?;
    let greeting = match process.child.stdout.take() {
        Some(stdout) => first_line(stdout),
        None => return Err(Failure::new(format!("{name}/{number} has no stdout"))),
    };
    Ok((process, greeting))
}

/// Reads `stdout` in a thread of its own; an end before the first line shows as a closed receiver.
fn first_line(stdout: ChildStdout) -> oneshot::Receiver<String> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        if BufReader::new(stdout).read_line(&mut line).is_ok_and(|read| read > 0) {
            // Nobody listens any more if starting was given up meanwhile.
            let _ = tell.send(line);
        }
    });
    told
}

async fn address_of(name: &str, greeting: oneshot::Receiver<String>) -> Result<SocketAddr, Failure> {
    let line = tokio::time::timeout(START_WITHIN, greeting)
        .await
        .map_err(|_| Failure::new(format!("{name} did not start within {} s", START_WITHIN.as_secs())))?
        .map_err(|_| Failure::new(format!("{name} ended before it was ready")))?;
    line.trim()
        .strip_prefix(service::READY)
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| Failure::new(format!("{name} greeted with {line:?} instead of its address")))
}

/// Where a child's own words go, so that they can be shown if it fails.
pub(super) fn words_to(command: &mut Command, log: &File) -> std::io::Result<()> {
    command.stdout(log.try_clone()?).stderr(log.try_clone()?);
    Ok(())
}

/// How much slower a slow instance is.
pub(super) const SLOW_TIMES: u32 = 50;
/// Which share of its calls a failing instance fails.
pub(super) const FAIL_SHARE: f64 = 0.2;
/// A start takes milliseconds; a machine busy with a build can make it seconds.
pub(super) const START_WITHIN: Duration = Duration::from_secs(15);

//! A program that says by its exit status whether an endpoint is well.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::At;

/// Runs the program with `SEAWORTHY_ENDPOINT=host:port` and expects the exit status 0. Whatever it has started ends with it.
pub(super) async fn check(command: &[String], at: At<'_>) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("the check's command is empty; name a program")?;
    at.is("starting the command");
    let mut child = Command::new(program)
        .args(arguments)
        .env("SEAWORTHY_ENDPOINT", at.authority())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts can be ended with it, and a Ctrl-C at the proxy's terminal is not its own.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("expected to run {program:?}, got: {error}; correct the check's command"))?;
    let _group = Group::of(&child);
    at.is("waiting for the command to end");
    let (status, output) = ended(&mut child).await;
    let status = status.map_err(|error| format!("expected {program:?} to end, got: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let said = if output.is_empty() { String::new() } else { format!(", which said {output:?}") };
    Err(format!("expected {program:?} to end with status 0, got {status}{said}"))
}

/// How the program ended, and the end of what it said.
async fn ended(child: &mut Child) -> (std::io::Result<ExitStatus>, String) {
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let status = {
        let reading = async { tokio::join!(out.read(stdout), err.read(stderr)) };
        let mut reading = std::pin::pin!(reading);
        let mut is_read = false;
        let status = loop {
            tokio::select! {
                _ = &mut reading, if !is_read => is_read = true,
                status = child.wait() => break status,
            }
        };
        if !is_read {
            // What it wrote last may still be in the pipe. If something that it has started holds the pipe open, that is none of
            // its own words.
            drop(tokio::time::timeout(LAST_WORDS, reading).await);
        }
        status
    };
    let said = if err.0.is_empty() { out } else { err };
    (status, said.text())
}

/// The end of what was written.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    async fn read(&mut self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else { return };
        let mut piece = [0; 1024];
        // A pipe that can't be read any more has nothing more to say.
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            self.0.extend_from_slice(&piece[..length]);
            let surplus = self.0.len().saturating_sub(MOST_SHOWN);
            self.0.drain(..surplus);
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().to_owned()
    }
}

/// Everything that the program has started, itself included: killed when this is dropped, whether it has ended or its time is
/// over. Something that left its group (a daemon) has left it for good.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The usual answer is that nobody is left. The number can't belong to others yet: the kernel gives out all others first.
            let _nobody = kill_process_group(group, Signal::KILL);
        }
    }
}

/// So much of the end of what was said stands in a message.
const MOST_SHOWN: usize = 400;

/// What is in a pipe is read in microseconds.
const LAST_WORDS: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::process::test_kill_process;

    use super::super::servers::{asked, spec};
    use super::*;

    async fn run(script: &str, more: &str) -> Result<(), String> {
        let (spec, protocol) =
            spec("http1", &format!("kind = 'command'\n{more}\ncommand = ['sh', '-c', '''{script}''']"));
        asked(&spec, protocol, 8080).await
    }

    const PATIENT: &str = "timeout = '30000ms'";

    #[tokio::test]
    async fn status_0_is_well_and_the_endpoint_is_in_the_environment() {
        assert_eq!(run(r#"test "$SEAWORTHY_ENDPOINT" = 127.0.0.1:8080"#, PATIENT).await, Ok(()));
    }

    #[tokio::test]
    async fn another_status_is_told_with_the_end_of_what_was_said() {
        let error = run("echo progress; echo no disk >&2; exit 3", PATIENT).await.unwrap_err();
        assert_eq!(error, "expected \"sh\" to end with status 0, got exit status: 3, which said \"no disk\"");
        let error = run("echo down; false", PATIENT).await.unwrap_err();
        assert!(error.ends_with("which said \"down\""), "{error}");
        let error = run("kill -9 $$", PATIENT).await.unwrap_err();
        assert!(error.contains("signal: 9"), "{error}");
        let error = run("seq 1 100000; exit 1", PATIENT).await.unwrap_err();
        assert!(error.ends_with("99999\\n100000\"") && error.len() < 700, "{error}");
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_told_with_a_remedy() {
        let (spec, protocol) = spec("http1", "kind = 'command'\ncommand = ['/nowhere/at/all']");
        let error = asked(&spec, protocol, 80).await.unwrap_err();
        assert!(error.starts_with("expected to run \"/nowhere/at/all\", got: No such file"), "{error}");
        assert!(error.ends_with("; correct the check's command"), "{error}");
    }

    /// A script that starts something which outlives it, and the process that this was.
    fn starting(name: &str, then: &str) -> (String, PathBuf) {
        let file = std::env::temp_dir().join(format!("seaworthy-check-{}-{name}", std::process::id()));
        (format!("sleep 1000 & echo $! > {}; {then}", file.display()), file)
    }

    async fn is_gone(file: PathBuf) {
        let id = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let id = Pid::from_raw(id.trim().parse().unwrap()).unwrap();
        // Killed, it stays until whoever adopted it has taken note; where nobody does it stays for ever, but does not run.
        let runs = || {
            let stat =
                std::fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).unwrap_or_default();
            test_kill_process(id).is_ok() && !stat.contains(") Z ")
        };
        while runs() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let (script, file) = starting("hangs", "wait");
        let error = run(&script, "timeout = '1000ms'").await.unwrap_err();
        assert_eq!(error, "expected an answer within 1s, was still waiting for the command to end");
        is_gone(file).await;
    }

    #[tokio::test]
    async fn a_program_that_ends_leaves_nothing_behind() {
        let (script, file) = starting("ends", "exit 0");
        assert_eq!(run(&script, PATIENT).await, Ok(()));
        is_gone(file).await;
    }
}

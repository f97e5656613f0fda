//! A keeper: the thread that starts one worker, talks with it, buries it and starts the next.
//!
//! One thread a worker, because a worker on Linux is killed when the *thread* that started it ends: a thread of the runtime
//! may end at any time, this one when its worker has.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use seaworthy_core::Seeded;
use seaworthy_core::call::retry::Backoff;

use super::board::{Job, LAST_BREATH, Live, Shared};
use super::error::{Cause, Error};
use super::wire::{Trouble, Wire, wait_for_bell};
use crate::bulkhead::lock;

pub(super) struct Keeper {
    shared: Arc<Shared>,
    seat: usize,
    bell: UnixStream,
    rng: Seeded,
    /// The waits before the next starts; `None` while all is well.
    backoff: Option<Backoff>,
    /// When the next worker may be started.
    resumes: Option<Instant>,
}

impl Keeper {
    pub(super) const fn new(shared: Arc<Shared>, seat: usize, bell: UnixStream, rng: Seeded) -> Self {
        Self { shared, seat, bell, rng, backoff: None, resumes: None }
    }

    /// Keeps a worker until the pool closes.
    pub(super) fn run(mut self) {
        while self.pause() {
            match self.start() {
                Ok(wire) => self.keep(wire),
                Err(cause) => self.failed(&cause),
            }
        }
    }

    /// Waits until a worker may be started; false if none may any more.
    fn pause(&mut self) -> bool {
        loop {
            if self.shared.board().closing {
                return false;
            }
            let Some(until) = self.resumes.filter(|at| *at > Instant::now()) else {
                self.resumes = None;
                self.shared.board().seats[self.seat].resumes = None;
                return true;
            };
            if wait_for_bell(&self.bell, until).is_err() {
                // Without a bell, sleeping is all that is left; the pool's end is then noticed after it.
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
            }
        }
    }

    /// Starts a worker and waits for its greeting.
    fn start(&self) -> Result<Wire, Cause> {
        let mut wire = self.spawn().map_err(|error| Cause::NotStarted(Arc::new(error)))?;
        let limit = self.shared.config.start_timeout;
        match wire.greeted(Instant::now() + limit) {
            Ok(()) => {
                self.shared.board().seats[self.seat].up = true;
                Ok(wire)
            }
            Err(Trouble::Late) => {
                self.bury(Duration::ZERO);
                Err(self.or_stopped(Cause::StartedTooSlowly(limit)))
            }
            Err(trouble) => Err(self.lost(trouble)),
        }
    }

    fn spawn(&self) -> io::Result<Wire> {
        let (ours, theirs) = UnixStream::pair()?;
        let stream = ours.try_clone()?;
        let wire = Wire::new(ours, self.shared.config.most_bytes)?;
        let mut command = lock(&self.shared.command);
        let spawned = command.stdin(OwnedFd::from(theirs)).spawn();
        // Only the worker may hold its end, or it would never be seen to close.
        command.stdin(Stdio::null());
        drop(command);
        let live = Live { child: spawned?, stream };
        let mut board = self.shared.board();
        board.started += 1;
        if board.killed {
            live.kill();
        }
        board.seats[self.seat].live = Some(live);
        Ok(wire)
    }

    /// Hands calls to the worker until it is lost, has done its share, or the pool closes.
    fn keep(&mut self, mut wire: Wire) {
        let mut left = self.shared.config.calls_per_worker;
        while left != Some(0) {
            match self.next(&mut wire) {
                Next::Job(job) => {
                    if let Err(cause) = self.work(&mut wire, job) {
                        return self.failed(&cause);
                    }
                }
                Next::Gone(trouble) => {
                    let cause = self.lost(trouble);
                    return self.failed(&cause);
                }
                Next::Closing => break,
            }
            left = left.map(|left| left - 1);
        }
        wire.close();
        self.bury(LAST_BREATH);
    }

    /// Waits for the next call. A worker that has ended meanwhile is noticed before it is given one, so that call is not lost.
    fn next(&self, wire: &mut Wire) -> Next {
        loop {
            if let Some(trouble) = wire.stirred() {
                let mut board = self.shared.board();
                board.idle.retain(|n| *n != self.seat);
                if let Some(job) = board.seats[self.seat].job.take() {
                    self.shared.assign(&mut board, job);
                }
                return Next::Gone(trouble);
            }
            let mut board = self.shared.board();
            if board.closing {
                board.idle.retain(|n| *n != self.seat);
                return Next::Closing;
            }
            let job = board.seats[self.seat].job.take().or_else(|| board.jobs.pop_front());
            if let Some(job) = job {
                board.idle.retain(|n| *n != self.seat);
                return Next::Job(job);
            }
            if !board.idle.contains(&self.seat) {
                board.idle.push(self.seat);
            }
            drop(board);
            if let Err(error) = wire.wait(&self.bell, None) {
                return Next::Gone(Trouble::System(error));
            }
        }
    }

    /// Makes one call.
    fn work(&mut self, wire: &mut Wire, job: Job) -> Result<(), Cause> {
        let Job { id, request, reply, place } = job;
        let pid = self.pid();
        let exchanged = wire.exchange(id, &request, Instant::now() + self.shared.config.timeout);
        let answer = exchanged.map_err(|trouble| self.lost(trouble));
        // A worker that answers is well, whatever came before.
        if answer.is_ok() {
            self.backoff = None;
        }
        self.shared.board().lost += u64::from(answer.is_err());
        // Before the answer: whoever has that finds the place free. Who is not there any more misses it.
        drop(place);
        match answer {
            Ok(answer) => {
                drop(reply.send(Ok(answer)));
                Ok(())
            }
            Err(cause) => {
                drop(reply.send(Err(Error::Lost { pid, cause: cause.clone() })));
                Err(cause)
            }
        }
    }

    /// Sees to the worker's end, and says what befell it.
    fn lost(&self, trouble: Trouble) -> Cause {
        let config = &self.shared.config;
        let cause = match trouble {
            Trouble::Closed => match self.bury(LAST_BREATH) {
                Some(status) => match (status.signal(), status.code()) {
                    (Some(signal), _) => Cause::Signal(signal),
                    (None, code) => Cause::Exit(code.unwrap_or_default()),
                },
                None => Cause::HungUp,
            },
            // It ends by itself after it has told.
            Trouble::Panicked(message) => {
                self.bury(LAST_BREATH);
                return Cause::Panicked(message);
            }
            Trouble::Late => Cause::TimedOut(config.timeout),
            Trouble::Broken(how) => Cause::Broken(how),
            Trouble::TooLong(length) => Cause::TooLong { length, most: config.most_bytes },
            Trouble::System(error) => Cause::Pipe(Arc::new(error)),
        };
        self.bury(Duration::ZERO);
        self.or_stopped(cause)
    }

    fn or_stopped(&self, cause: Cause) -> Cause {
        if self.shared.board().killed { Cause::Stopped } else { cause }
    }

    /// The first loss after good work is made up for at once, those that follow after a growing wait.
    fn failed(&mut self, cause: &Cause) {
        let wait = match &mut self.backoff {
            Some(backoff) => backoff.next(&mut self.rng),
            None => {
                self.backoff = Some(Backoff::new(&self.shared.backoff));
                Duration::ZERO
            }
        };
        self.resumes = Some(Instant::now() + wait);
        let mut board = self.shared.board();
        board.last = Some(cause.clone());
        board.seats[self.seat].resumes = self.resumes;
    }

    /// Waits for the worker's end, kills it with its group after `grace`, and takes its status from the system. `None` if it had
    /// to be killed, or was buried before.
    fn bury(&self, grace: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + grace;
        let mut nap = FIRST_NAP;
        let ended = loop {
            match self.has_ended() {
                false if Instant::now() < until => {
                    std::thread::sleep(nap);
                    nap = (nap * 2).min(LONGEST_NAP);
                }
                ended => break ended,
            }
        };
        let mut board = self.shared.board();
        let seat = &mut board.seats[self.seat];
        seat.up = false;
        let live = seat.live.take();
        drop(board);
        let mut live = live?;
        // Also when it has ended: it may have left children behind.
        live.kill();
        let status = live.child.wait().ok();
        status.filter(|_| ended)
    }

    /// Whether it has ended, without taking its status: until then its id can't be another's.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let board = self.shared.board();
        let Some(live) = &board.seats[self.seat].live else { return true };
        let pid = Pid::from_child(&live.child);
        // Who can't be asked about has ended, or will be killed as if it had not.
        waitid(WaitId::Pid(pid), options).is_ok_and(|status| status.is_some())
    }

    fn pid(&self) -> u32 {
        self.shared.board().seats[self.seat].live.as_ref().map_or(0, |live| live.child.id())
    }
}

enum Next {
    Job(Job),
    Gone(Trouble),
    Closing,
}

/// A process that closes its pipe because it ends has mostly ended before it is asked for the second time.
const FIRST_NAP: Duration = Duration::from_millis(1);
/// How much longer than necessary a burial may take.
const LONGEST_NAP: Duration = Duration::from_millis(20);

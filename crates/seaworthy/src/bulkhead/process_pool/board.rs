//! What the callers and the keepers of the workers share: which call goes to which worker.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use seaworthy_core::Valid;
use seaworthy_core::call::retry;
use tokio::sync::oneshot;

use super::error::{Cause, Error};
use super::{Config, Snapshot};
use crate::bulkhead::{Door, Place, lock};

/// A call that has a place.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) request: Vec<u8>,
    pub(super) reply: oneshot::Sender<Result<Vec<u8>, Error>>,
    pub(super) place: Place,
}

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) backoff: Valid<retry::Config>,
    pub(super) door: Arc<Door>,
    /// How a worker is started.
    pub(super) command: Mutex<Command>,
    board: Mutex<Board>,
    /// By which the keepers are woken.
    bells: Vec<UnixStream>,
}

/// Everything about the workers that more than one thread looks at.
#[derive(Default)]
pub(super) struct Board {
    /// Calls for which no worker is free yet: never more than there are workers.
    pub(super) jobs: VecDeque<Job>,
    /// Workers with nothing to do. The last to come is the first to go, so that a pool that is too large uses few.
    pub(super) idle: Vec<usize>,
    pub(super) seats: Vec<Seat>,
    /// No call is begun any more.
    pub(super) closing: bool,
    /// No worker lives any more.
    pub(super) killed: bool,
    pub(super) last: Option<Cause>,
    pub(super) started: u64,
    pub(super) lost: u64,
    next_id: u64,
}

/// One worker's.
#[derive(Default)]
pub(super) struct Seat {
    /// What it is to do next.
    pub(super) job: Option<Job>,
    pub(super) live: Option<Live>,
    /// Whether it has greeted.
    pub(super) up: bool,
    /// When it is started again.
    pub(super) resumes: Option<Instant>,
}

/// A process that was not waited for, so that its id is its own.
pub(super) struct Live {
    pub(super) child: Child,
    /// Another handle of the pipe, to close it.
    pub(super) stream: UnixStream,
}

impl Live {
    /// Kills it with all that it started and that stayed in its group.
    pub(super) fn kill(&self) {
        // Only a group that is gone can't be killed, and this one's leader was not waited for.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        // Somebody who left the group may hold the other end. Closing what is closed already is no matter.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Shared {
    pub(super) fn new(
        config: Config,
        backoff: Valid<retry::Config>,
        door: Arc<Door>,
        command: Command,
        bells: Vec<UnixStream>,
    ) -> Self {
        let seats = bells.iter().map(|_| Seat::default()).collect();
        let board = Mutex::new(Board { seats, ..Board::default() });
        Self { config, backoff, door, command: Mutex::new(command), board, bells }
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }

    /// Hands a call to a worker that is idle, or to the next that is. Its answer fails if it is never begun.
    pub(super) fn submit(
        &self,
        place: Place,
        request: Vec<u8>,
    ) -> (u64, oneshot::Receiver<Result<Vec<u8>, Error>>) {
        let (reply, answer) = oneshot::channel();
        let mut board = self.board();
        board.next_id += 1;
        let id = board.next_id;
        let job = Job { id, request, reply, place };
        if board.closing {
            // Not under the lock: giving up a place wakes others.
            drop(board);
            drop(job);
        } else {
            self.assign(&mut board, job);
        }
        (id, answer)
    }

    /// Gives a call to an idle worker, or keeps it as the next to be taken.
    pub(super) fn assign(&self, board: &mut Board, job: Job) {
        match board.idle.pop() {
            Some(n) => {
                board.seats[n].job = Some(job);
                self.ring(n);
            }
            None => board.jobs.push_back(job),
        }
    }

    /// Takes back a call that has not begun; whether it had not.
    pub(super) fn withdraw(&self, id: u64) -> bool {
        let mut board = self.board();
        let waiting = board.jobs.iter().position(|job| job.id == id);
        let job = match waiting.and_then(|n| board.jobs.remove(n)) {
            Some(job) => Some(job),
            None => board.seats.iter_mut().find_map(|seat| seat.job.take_if(|job| job.id == id)),
        };
        drop(board);
        // Its place wakes others, so not under the lock.
        job.is_some()
    }

    /// Why no worker is up.
    pub(super) fn no_worker(&self) -> Error {
        let board = self.board();
        let resumes = board.seats.iter().filter_map(|seat| seat.resumes).min();
        let retry_after = resumes.map(|at| at.saturating_duration_since(Instant::now()));
        Error::NoWorker { last: board.last.clone(), retry_after }
    }

    /// No call is begun any more; workers end after the one that they are at.
    pub(super) fn close(&self) {
        self.door.close();
        let mut board = self.board();
        board.closing = true;
        let mut unbegun: Vec<_> = board.jobs.drain(..).collect();
        unbegun.extend(board.seats.iter_mut().filter_map(|seat| seat.job.take()));
        drop(board);
        drop(unbegun);
        (0..self.bells.len()).for_each(|n| self.ring(n));
    }

    /// Kills every worker; how many.
    pub(super) fn kill(&self) -> u32 {
        let mut board = self.board();
        board.closing = true;
        board.killed = true;
        let mut killed = 0;
        for live in board.seats.iter().filter_map(|seat| seat.live.as_ref()) {
            live.kill();
            killed += 1;
        }
        killed
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let places = self.door.snapshot();
        let board = self.board();
        let up = board.seats.iter().filter(|seat| seat.up);
        Snapshot {
            running: places.running,
            waiting: places.waiting,
            rejected: places.rejected,
            workers: up.filter_map(|seat| seat.live.as_ref()).map(|live| live.child.id()).collect(),
            started: board.started,
            lost: board.lost,
            last: board.last.clone(),
        }
    }

    fn ring(&self, n: usize) {
        // A bell that is full already rings.
        let _ = (&self.bells[n]).write(&[1]);
    }
}

/// How long a worker that should end by itself is waited for. It has nothing to do but to notice.
pub(super) const LAST_BREATH: Duration = Duration::from_secs(1);

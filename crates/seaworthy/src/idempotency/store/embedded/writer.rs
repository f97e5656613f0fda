//! The one thread that writes.
//!
//! It takes all steps that wait, carries them out in one transaction, commits that once, and then answers them: what one sync
//! of the disk costs is shared by all that came while the one before was under way.
//!
//! ```text
//!           open, found whole                    an I/O error, a panic, a page that doesn't add up
//! (start) --------------------> open for steps ------------------------------------------------> shut
//!                                     ^  found whole                                               | tries again
//!                                     +------------------------------------------------------------+ 50 ms .. 5 s later
//!                                     |                                                            | found damaged
//!                                     +--------------------------- refusing, or begun anew <-------+
//!                                       somebody put a file back, or said to begin anew
//! ```

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::clock::Clocks;
use super::disk::{Disk, Log, exists};
use super::fault::{Fault, guarded};
use super::step::{Done, MOST_STEPS, Op, Swept};
use super::{Notice, Options, Shared, WhenCorrupt};
use crate::idempotency::store::StoreError;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    Ask(Asked),
    /// A reader met this.
    Suspect(Fault),
    Stop,
}

/// A step that waits.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) op: Op,
    pub(super) answer: oneshot::Sender<Result<Done, StoreError>>,
    /// Its share of the queue's room, given back when it was answered.
    pub(super) room: OwnedSemaphorePermit,
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    options: Options,
    clocks: Clocks,
    /// While the file is open.
    open: Option<(Arc<Disk>, Log)>,
    /// Of the last opening.
    epoch: Option<u64>,
    shut: Shut,
}

/// What is done about a file that is not open.
#[derive(Debug)]
struct Shut {
    /// Whether a damaged file was put aside, and nothing is begun in its place unasked.
    refusing: bool,
    again: Instant,
    pause: Duration,
    /// What was told last, so that it is told once.
    told: Option<&'static str>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, options: Options, clocks: Clocks) -> Self {
        let shut = Shut { refusing: false, again: Instant::now(), pause: FIRST_PAUSE, told: None };
        Self { shared, options, clocks, open: None, epoch: None, shut }
    }

    /// The first opening. What an operator has to see to before a start is an error; what can pass is not.
    pub(super) fn start(&mut self) -> Result<(), Fault> {
        match self.try_open() {
            Ok(()) | Err(Fault::Damaged(_) | Fault::Full(_)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        let mut batch = Vec::new();
        loop {
            match inbox.recv_timeout(self.patience()) {
                Ok(Message::Ask(asked)) => batch.push(asked),
                Ok(Message::Suspect(fault)) => self.suspect(fault),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.idle(),
            }
            let mut stop = false;
            while !batch.is_empty() && batch.len() < MOST_STEPS {
                match inbox.try_recv() {
                    Ok(Message::Ask(asked)) => batch.push(asked),
                    Ok(Message::Suspect(fault)) => self.suspect(fault),
                    Ok(Message::Stop) => {
                        stop = true;
                        break;
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            if !batch.is_empty() {
                self.carry_out(std::mem::take(&mut batch));
            }
            if stop {
                break;
            }
        }
        self.shut_for(&StoreError::Down("it was closed".into()));
    }

    /// How long nothing has to be done unasked.
    fn patience(&self) -> Duration {
        match &self.open {
            Some(_) => IDLE,
            None => self.shut.again.saturating_duration_since(Instant::now()).min(IDLE),
        }
    }

    fn idle(&mut self) {
        let Some((disk, log)) = &mut self.open else {
            self.open_again();
            return;
        };
        let swept = guarded(|| {
            if !disk.has_expired()? {
                return Ok(Swept::default());
            }
            disk.commit(log, |writing| writing.sweep(SWEPT_WHEN_IDLE))
        });
        match swept {
            Ok(Swept { work: 0, .. }) => {}
            Ok(swept) => self.count(0, swept),
            Err(fault) => self.fail(fault),
        }
    }

    fn carry_out(&mut self, batch: Vec<Asked>) {
        // Who no longer waits did not act.
        let (anew, batch): (Vec<Asked>, Vec<Asked>) = batch
            .into_iter()
            .filter(|asked| !asked.answer.is_closed())
            .partition(|asked| matches!(asked.op, Op::Anew));
        for asked in anew {
            let begun = self.begin_anew();
            answer(asked, begun.map(Done::Said).map_err(Fault::into_error));
        }
        if self.open.is_none() && self.shut.again <= Instant::now() {
            self.open_again();
        }
        let Some((disk, log)) = &mut self.open else {
            let error = self.shared.error();
            batch.into_iter().for_each(|asked| answer(asked, Err(error.clone())));
            return;
        };
        if batch.is_empty() {
            return;
        }
        let done = guarded(|| {
            disk.commit(log, |writing| {
                let done: Vec<_> =
                    batch.iter().map(|asked| writing.take(&asked.op)).collect::<Result<_, _>>()?;
                // More than can have come, so that what is past its retention doesn't pile up while there is always something to do.
                let swept = writing.sweep(2 * batch.len())?;
                Ok((done, swept))
            })
        });
        match done {
            Ok((done, swept)) => {
                self.count(batch.len(), swept);
                for (asked, done) in batch.into_iter().zip(done) {
                    self.notice_of(&done);
                    answer(asked, done);
                }
            }
            Err(fault) => {
                let error = fault.clone().into_error();
                self.fail(fault);
                batch.into_iter().for_each(|asked| answer(asked, Err(error.clone())));
            }
        }
    }

    fn notice_of(&self, done: &Result<Done, StoreError>) {
        if let Err(StoreError::Corrupt(what)) = done {
            self.shared.damaged(what);
        }
    }

    fn count(&self, steps: usize, swept: Swept) {
        let counts = &self.shared.counts;
        counts.commits.fetch_add(1, Ordering::Relaxed);
        counts.steps.fetch_add(steps as u64, Ordering::Relaxed);
        counts.swept.fetch_add(swept.records as u64, Ordering::Relaxed);
    }

    /// A reader met a fault. If the file was opened anew since, that was seen to already; checking once more does no harm.
    fn suspect(&mut self, fault: Fault) {
        if self.open.is_some() {
            self.fail(fault);
        }
    }

    /// Shuts the file, and tries at once whether it was but a moment's trouble.
    fn fail(&mut self, fault: Fault) {
        self.tell(&fault.clone().into_error());
        self.shut_for(&fault.into_error());
        self.shut.pause = FIRST_PAUSE;
        self.shut.again = Instant::now() + self.shut.pause;
    }

    fn shut_for(&mut self, error: &StoreError) {
        self.shared.set(Err(error.clone()));
        let Some((disk, _)) = self.open.take() else { return };
        // Readers hold it for a moment at a time, and none begins any more. What closing it meets, the next opening meets too.
        let mut disk = Some(disk);
        while let Some(held) = disk.take() {
            match Arc::try_unwrap(held) {
                Ok(disk) => drop(guarded(|| Ok(disk.database.close()?))),
                Err(held) => {
                    disk = Some(held);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn open_again(&mut self) {
        if self.shut.refusing {
            self.look_for_a_remedy();
        } else if self.try_open().is_ok() {
            self.shared.counts.reopened.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// While refusing: a file that was put back is tried, and who removed what tells of it wants a new one.
    fn look_for_a_remedy(&mut self) {
        let place = &self.shared.place;
        let put_back = matches!(exists(&place.file), Ok(true));
        let forgotten = matches!(exists(&place.seen), Ok(false));
        if put_back || forgotten {
            self.shut.refusing = false;
            if self.try_open().is_ok() {
                self.shared.counts.reopened.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            self.shut.again = Instant::now() + IDLE;
        }
    }

    fn try_open(&mut self) -> Result<(), Fault> {
        let opened = Disk::open(&self.shared.place, self.options.cache_bytes, &self.clocks, self.epoch);
        let opened = match opened {
            Err(Fault::Damaged(why)) => self.put_aside(&why),
            other => other,
        };
        match opened {
            Ok((disk, log)) => {
                let disk = Arc::new(disk);
                self.epoch = Some(disk.epoch);
                self.shared.set(Ok(disk.clone()));
                self.open = Some((disk, log));
                if self.shut.told.take().is_some() {
                    self.shared.tell(&Notice::Reopened { file: self.shared.place.file.clone() });
                }
                self.shut.pause = FIRST_PAUSE;
                Ok(())
            }
            Err(fault) => {
                let error = fault.clone().into_error();
                self.tell(&error);
                self.shared.set(Err(error));
                self.shut.again = Instant::now() + self.shut.pause;
                self.shut.pause = (self.shut.pause * 2).min(LONGEST_PAUSE);
                Err(fault)
            }
        }
    }

    /// The file is damaged, or gone. It is kept for who wants to look at it, and never read again unasked.
    fn put_aside(&mut self, why: &str) -> Result<(Disk, Log), Fault> {
        let place = self.shared.place.clone();
        let file = place.file.display();
        let to = if exists(&place.file)? { Some(place.quarantine(self.clocks.wall_ms())?) } else { None };
        let gone_to = match &to {
            Some(to) => format!("{file} is damaged ({why}) and was moved to {}", to.display()),
            None => format!("{file} is gone, or was moved aside as damaged (to {file}.corrupt-...)"),
        };
        let anew = self.options.when_corrupt == WhenCorrupt::BeginAnew;
        self.shared.tell(&Notice::Corrupt {
            file: place.file.clone(),
            to,
            why: why.into(),
            begun_anew: anew,
        });
        self.shared.counts.quarantined.fetch_add(1, Ordering::Relaxed);
        if anew {
            place.forget()?;
            return Disk::open(&place, self.options.cache_bytes, &self.clocks, None);
        }
        self.shut.refusing = true;
        self.shut.told = Some("corrupt");
        Err(Fault::Damaged(format!(
            "{gone_to}; to go on, put back the file as it was last, or remove {} to begin with no keys",
            place.seen.display()
        )))
    }

    fn begin_anew(&mut self) -> Result<bool, Fault> {
        if !self.shut.refusing || self.open.is_some() {
            return Ok(false);
        }
        self.shared.place.forget()?;
        self.shut.refusing = false;
        self.try_open().map(|()| true)
    }

    /// Says what is wrong, once.
    fn tell(&mut self, error: &StoreError) {
        if self.shut.told != Some(error.name()) {
            self.shut.told = Some(error.name());
            self.shared.tell(&Notice::Shut { error: error.to_string() });
        }
    }
}

fn answer(asked: Asked, done: Result<Done, StoreError>) {
    // It may have gone away; its step is done all the same.
    drop(asked.answer.send(done));
    drop(asked.room);
}

impl Shared {
    pub(super) fn set(&self, state: Result<Arc<Disk>, StoreError>) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn error(&self) -> StoreError {
        match self.disk() {
            Err(error) => error,
            Ok(_) => StoreError::Down("it is being opened".into()),
        }
    }
}

/// How often it sweeps, and looks for a remedy, with nothing else to do: a peek at one page costs nothing beside it.
const IDLE: Duration = Duration::from_secs(1);
/// Swept away at once with nothing else to do: of records some 10 ms of work, for which a step may wait.
const SWEPT_WHEN_IDLE: usize = 1000;
/// Between attempts to open the file again: at first what a sync may take anyway, later what an operator doesn't notice.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

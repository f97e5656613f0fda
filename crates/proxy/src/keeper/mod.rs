//! The keeper: one thread that knows which endpoints there are and how they are, and tells the workers.
//!
//! ```text
//!  discovery, processes --News--> Book (one an upstream) --Roster--> Fleet <--one load a call-- workers
//!  checks (Patient)      ------->   |  ^
//!  operators             --Order->  |  +-- what the workers count, ten times a second
//!                                   +--> outlier, table, evacuation: seaworthy-core decides
//! ```
//!
//! No call waits for the keeper. If it were to stand still, the workers would go on with what it said last.

mod book;
mod host;
mod nursery;
mod patient;
mod regions;

use std::sync::Arc;
use std::time::Duration;

use seaworthy::clock;
use seaworthy_config::{Discovery, Source, Where};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use self::book::Book;
pub(crate) use self::book::hash;
use self::host::Watch;
use self::nursery::Nursery;
use self::regions::Regions;
use crate::discovery::{News, Target, dns, file, srv};
use crate::process::{self, Event, Shim, State};
use crate::proxy::{Error, Stage, runtime};
use crate::site::Site;

/// What operators want of the keeper.
pub(crate) struct Order {
    /// What is to be done.
    pub what: What,
    /// Where the answer goes; the error is why it can't be.
    pub reply: oneshot::Sender<Result<Value, String>>,
}

/// What is to be done.
pub(crate) enum What {
    /// To tell how the regions are.
    Regions,
    /// To tell how the processes are.
    Processes,
    /// To take a region out of service.
    Evacuate(Move),
    /// To take it back.
    Restore(Move),
    /// To restart a process, one replica at a time.
    Restart {
        /// Its name.
        process: String,
    },
}

/// A region to be taken out of service, or back.
pub(crate) struct Move {
    pub region: String,
    /// How long it takes.
    pub over: Duration,
    /// Even if what remains can't carry the load.
    pub force: bool,
    /// Why, for the log.
    pub reason: String,
}

/// Keeps the fleets until everything is over. `begun` is told once the endpoints that need no discovery are known.
pub(crate) fn serve(
    site: Arc<Site>,
    shim: Shim,
    seed: u64,
    mut stage: watch::Receiver<Stage>,
    orders: mpsc::UnboundedReceiver<Order>,
    begun: oneshot::Sender<()>,
) -> Result<(), Error> {
    runtime()?.block_on(async move {
        let (tell, heard) = mpsc::unbounded_channel();
        let mut keeper = Keeper::new(site, shim, seed, &tell);
        keeper.begin(&tell);
        // Whoever waits for it has gone if the proxy is over already.
        let _ = begun.send(());
        tokio::select! {
            () = keeper.keep(heard, orders) => {}
            _ = stage.wait_for(|stage| *stage == Stage::Over) => {}
        }
        // Last of all: until here their calls were finished.
        keeper.nursery.close().await;
        Ok(())
    })
}

/// What the keeper hears.
enum Heard {
    /// Of a source, by upstream and place.
    Source(usize, usize, News),
    /// Of a supervised process.
    Process(Event),
}

struct Keeper {
    site: Arc<Site>,
    books: Vec<Book>,
    nursery: Nursery,
    regions: Regions,
    watch: Watch,
}

impl Keeper {
    fn new(site: Arc<Site>, shim: Shim, seed: u64, tell: &mpsc::UnboundedSender<Heard>) -> Self {
        let book = |n: usize| Book::new(site.clone(), n, hash(&(seed ^ n as u64).to_le_bytes()));
        let tell = tell.clone();
        // Nobody listens any more once the proxy is over.
        let tell = move |event| drop(tell.send(Heard::Process(event)));
        Self {
            books: (0..site.services.len()).map(book).collect(),
            nursery: Nursery::open(&site.config.processes, shim, site.journal.clone(), tell),
            regions: Regions::default(),
            watch: Watch::new(),
            site,
        }
    }

    /// Takes in what is known already, and asks for the rest.
    fn begin(&mut self, tell: &mpsc::UnboundedSender<Heard>) {
        let site = self.site.clone();
        for (upstream, config) in site.config.upstreams.iter().enumerate() {
            for (n, source) in config.sources.iter().enumerate() {
                if let Where::Address(address) = &source.at {
                    let target = Target::new(address.clone(), source.labels.clone());
                    self.hear(Heard::Source(upstream, n, News::Targets(vec![target])));
                } else {
                    let tell = tell.clone();
                    let tell = move |news| drop(tell.send(Heard::Source(upstream, n, news)));
                    follow(source.clone(), config.discovery.clone(), tell);
                }
            }
        }
        self.look();
    }

    async fn keep(
        &mut self,
        mut heard: mpsc::UnboundedReceiver<Heard>,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look(),
                Some(heard) = heard.recv() => self.hear(heard),
                Some(Order { what, reply }) = orders.recv() => {
                    // An operator who has gone needs no answer.
                    let _ = reply.send(self.obey(what));
                }
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Source(upstream, source, News::Targets(targets)) => {
                self.books[upstream].told(clock::now(), source, targets);
            }
            Heard::Source(upstream, source, News::Trouble(trouble)) => {
                self.books[upstream].trouble(source, trouble);
            }
            Heard::Process(event) => self.hear_process(&event),
        }
        if self.books.iter().all(Book::is_complete) {
            self.site.complete();
        }
    }

    fn hear_process(&mut self, event: &Event) {
        let books = &self.books;
        let changed =
            self.nursery.hear(event, |address| books.iter().filter_map(|b| b.find(address)).collect());
        let trouble = match &event.what {
            process::What::State(state @ State::GivenUp { .. }) => Some(state.to_string()),
            _ => None,
        };
        for book in &mut self.books {
            for source in book.sources_at(&Where::Process(event.process)) {
                if changed {
                    book.told(clock::now(), source, self.nursery.targets(event.process));
                }
                if let Some(trouble) = &trouble {
                    book.trouble(source, trouble.clone());
                }
            }
        }
    }

    fn look(&mut self) {
        let now = clock::now();
        self.nursery.look();
        self.watch.look(now, &self.site);
        self.regions.look(now, &self.site, &self.books);
        for book in &mut self.books {
            book.look(now, |region| self.regions.kept(region));
        }
    }

    fn obey(&mut self, what: What) -> Result<Value, String> {
        let now = clock::now();
        match what {
            What::Regions => Ok(self.regions.show(&self.books)),
            What::Processes => Ok(self.nursery.show()),
            What::Evacuate(wanted) => self.regions.evacuate(now, &self.site, &self.books, wanted),
            What::Restore(wanted) => self.regions.restore(now, &self.site, &self.books, wanted),
            What::Restart { process } => self.nursery.restart(&process),
        }
    }
}

/// Asks a source for as long as the keeper lives. A supervised process is not asked: it is heard of.
fn follow(source: Source, how: Discovery, tell: impl FnMut(News) + 'static) {
    let labels = source.labels;
    tokio::task::spawn_local(async move {
        match &source.at {
            Where::Dns(name) => match dns(&name.host, name.port, &labels, &how, tell).await {},
            Where::Srv(name) => match srv(name, &labels, &how, tell).await {},
            Where::File(path) => match file(path, &labels, how.file_poll, tell).await {},
            Where::Address(_) | Where::Process(_) => {}
        }
    });
}

/// How often the endpoints are looked at. What goes wrong in between, breakers and retries answer for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

//! Scenarios as text: the proxy's configuration, and three tables of their own.

mod overload;
mod topology;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use seaworthy_config::{Config, Diagnostic, Mistakes, units};
use seaworthy_core::Valid;
use seaworthy_core::call::Repeat;
use seaworthy_core::gate::limit;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use self::overload::RawGuard;
use self::topology::{RawGroup, RawInstances};
use crate::scenario::{Clients, Load, Policies, Scenario};
use crate::service::{Aim, Change, Service};
use crate::spread::Spread;

impl Scenario {
    /// Reads a scenario. `file` is what the text is called in messages and reports, usually a path; nothing is opened.
    ///
    /// The tables `[simulation]`, `[clients]` and `[service]` are the simulator's. Everything else is read as the
    /// proxy's configuration is, with the policies of one upstream: `[upstream.service.retry]` and so on.
    ///
    /// # Errors
    /// Everything that is wrong with the text, at once.
    ///
    /// ```
    /// use seaworthy_sim::{Scenario, run};
    /// let scenario = Scenario::parse(r#"
    /// [simulation]
    /// seed = 7
    /// duration = "10s"
    /// [clients]
    /// rate = 100.0
    /// [service]
    /// latency = "20ms"
    /// failures = 0.1
    /// [upstream.service.retry]
    /// attempts = 2
    /// "#, "ten.scenario.toml")?;
    /// let report = run(&scenario);
    /// assert!(report.total.success > 0.95 && report.total.load > 1.05);
    /// # Ok::<(), seaworthy_config::Mistakes>(())
    /// ```
    pub fn parse(text: &str, file: &str) -> Result<Self, Mistakes> {
        let mut found = Found { file, text, errors: Vec::new() };
        if toml::from_str::<IgnoredAny>(text).is_err() {
            // It says what is wrong with TOML that is none.
            return match Config::from_toml(file, text) {
                Err(mistakes) => Err(mistakes),
                Ok(_) => unreachable!("two readers of TOML that differ about {file}"),
            };
        }
        let simulation = found.section::<WithSimulation>(text).map(|with| with.simulation);
        let clients = found.section::<WithClients>(text).map(|with| with.clients);
        let service = found.section::<WithService>(text).map(|with| with.service);
        let wanted = service.as_ref().and_then(|service| service.upstream.as_ref());
        let policies = found.policies(wanted);
        let (simulation, clients, service) = match (simulation, clients, service) {
            (Some(simulation), Some(clients), Some(service)) => (simulation, clients, service),
            _ => return Err(Mistakes::of(found.errors)),
        };
        let duration = simulation.duration.get_ref().0;
        let load = found.load(&clients, duration);
        let here = policies.as_ref().map(|(_, here)| here);
        let mix = found.mix(clients.mix.as_ref());
        let service = found.service(service, here, *clients.count.get_ref());
        if duration.is_zero() {
            found.error(
                simulation.duration.span(),
                "simulation.duration is 0".into(),
                "write how long calls are made, such as \"60s\"",
            );
        }
        match (policies, load, service) {
            (Some((policies, _)), Some(load), Some(service)) if found.errors.is_empty() => Ok(Self {
                name: file.into(),
                seed: simulation.seed,
                duration,
                record: simulation.record,
                clients: Clients {
                    count: *clients.count.get_ref(),
                    load,
                    repeat: clients.repeat.into(),
                    keys: *clients.keys.get_ref(),
                    mix,
                },
                service,
                policies,
            }),
            _ => Err(Mistakes::of(found.errors)),
        }
    }
}

/// Where the clients are; empty if unknown.
struct Here {
    zone: String,
    region: String,
}

/// What is wrong so far.
struct Found<'a> {
    file: &'a str,
    text: &'a str,
    errors: Vec<Diagnostic>,
}

impl Found<'_> {
    fn error(&mut self, span: Range<usize>, message: String, remedy: &str) {
        self.errors.push(Diagnostic::error(self.file, self.text, &span, message, remedy.into()));
    }

    fn section<T: DeserializeOwned>(&mut self, text: &str) -> Option<T> {
        toml::from_str(text)
            .map_err(|error| {
                let span = error.span().unwrap_or(0..0);
                self.error(span, error.message().into(), "docs/simulate.md lists the settings of a scenario");
            })
            .ok()
    }

    /// An error if `ok` is not so.
    fn check<T>(&mut self, ok: bool, what: &Spanned<T>, message: &str, remedy: &str) -> bool {
        if !ok {
            self.error(what.span(), message.into(), remedy);
        }
        ok
    }

    fn load(&mut self, clients: &RawClients, duration: Duration) -> Option<Load> {
        let count = &clients.count;
        let some = (1..=MOST_CLIENTS).contains(count.get_ref());
        self.check(
            some,
            count,
            "clients.count is not from 1 to 100000",
            "each client has policies of its own; write 1 for one proxy",
        );
        let message = "clients.keys is 0";
        let remedy = "write how many different keys calls have, such as 1000";
        self.check(*clients.keys.get_ref() > 0, &clients.keys, message, remedy);
        let (load, per_second, place) = match (&clients.rate, &clients.think) {
            (Some(rate), None) => {
                let each = *rate.get_ref();
                let positive = each > 0.0 && each.is_finite();
                if !self.check(
                    positive,
                    rate,
                    "clients.rate is not above 0",
                    "write calls a second of each client, such as 10.0",
                ) {
                    return None;
                }
                let load = match clients.arrivals {
                    Arrivals::Random => Load::Poisson(each),
                    Arrivals::Even => Load::Even(each),
                };
                (load, each, rate.span())
            }
            (None, Some(think)) => {
                let spread = self.spread(think, "clients.think")?;
                let typical = spread.typical();
                let enough = typical >= LEAST_THINK;
                if !self.check(
                    enough,
                    think,
                    "clients.think is below 1ms",
                    "clients that never pause would call for ever in no time",
                ) {
                    return None;
                }
                (Load::Closed(spread), 1.0 / typical.as_secs_f64(), think.span())
            }
            (rate, _) => {
                let place = rate.as_ref().map_or(0..0, Spanned::span);
                self.error(
                    place,
                    "clients needs rate or think, and only one of them".into(),
                    "write rate = 10.0 for an open loop, or think = \"1s\" for clients that wait for their answers",
                );
                return None;
            }
        };
        if per_second * f64::from(*count.get_ref()) * duration.as_secs_f64() > MOST_CALLS {
            self.error(
                place,
                "clients would make more than 100 million calls".into(),
                "lower the rate, the count or the duration",
            );
        }
        Some(load)
    }

    fn service(&mut self, raw: RawService, here: Option<&Here>, clients: u32) -> Option<Service> {
        let before = self.errors.len();
        let groups = self.groups(&raw, here, clients);
        let latency = self.spread(&raw.latency, "service.latency");
        self.share(&raw.failures, "service.failures");
        if let Some(servers) = &raw.servers {
            let message = "service.servers is 0";
            self.check(
                *servers.get_ref() > 0,
                servers,
                message,
                "write 1 or more, or leave it out for a service without a queue",
            );
        }
        self.share(&raw.refusal, "service.refusal");
        let guard = raw.guard.as_ref().and_then(|guard| self.guard(guard, raw.servers.as_ref()));
        for change in &raw.change {
            self.aim(change, &groups);
            if let Some(failures) = &change.failures {
                self.share(failures, "service.change.failures");
            }
            let slower = *change.slower.get_ref();
            let remedy = "write a factor up to 1000000, such as 10.0";
            self.check(
                (0.0..=1e6).contains(&slower),
                &change.slower,
                "service.change.slower is no factor",
                remedy,
            );
        }
        if self.errors.len() > before {
            return None;
        }
        Some(Service {
            groups,
            servers: raw.servers.map(Spanned::into_inner),
            queue: raw.queue,
            guard,
            refusal: raw.refusal.into_inner(),
            latency: latency?,
            failures: raw.failures.into_inner(),
            drops_cancelled: raw.drops_cancelled,
            changes: raw.change.into_iter().map(Change::from).collect(),
        })
    }

    fn share(&mut self, share: &Spanned<f64>, what: &str) {
        let ok = (0.0..=1.0).contains(share.get_ref());
        self.check(ok, share, &format!("{what} is no share"), "write a share from 0.0 to 1.0");
    }

    fn spread(&mut self, raw: &Spanned<RawSpread>, what: &str) -> Option<Spread> {
        Some(match *raw.get_ref() {
            RawSpread::Constant(Time(constant)) => Spread::Constant(constant),
            RawSpread::Exponential { mean: Time(mean) } => Spread::Exponential(mean),
            RawSpread::Lognormal { median: Time(median), sigma } => {
                let ok = (0.0..=MOST_SIGMA).contains(&sigma);
                let remedy = "0.5 is usual, and at 5 one in a hundred takes 100000 times the median";
                if !self.check(ok, raw, &format!("{what}.sigma is not from 0 to 5"), remedy) {
                    return None;
                }
                Spread::Lognormal { median, sigma }
            }
        })
    }

    /// The policies of the upstream, as the proxy would read them.
    fn policies(&mut self, wanted: Option<&Spanned<String>>) -> Option<(Policies, Here)> {
        let names: BTreeMap<String, RawUpstream> =
            toml::from_str::<WithUpstreams>(self.text).map(|with| with.upstream).unwrap_or_default();
        let name = match (wanted, names.keys().next()) {
            (Some(wanted), _) => wanted.get_ref().clone(),
            (None, Some(only)) if names.len() == 1 => only.clone(),
            (None, None) => DEFAULT_UPSTREAM.to_owned(),
            (None, Some(_)) => {
                let message = "there are several upstreams, and only one can be simulated".to_owned();
                self.error(0..0, message, "name it: upstream = \"...\" in [service]");
                return None;
            }
        };
        if let Some(wanted) = wanted.filter(|wanted| !names.contains_key(wanted.get_ref())) {
            let message = format!("there is no upstream {name:?}");
            self.error(wanted.span(), message, "write the name of one that the file has");
            return None;
        }
        let mut text = without_own_tables(self.text);
        let has_endpoints = names.get(&name).is_some_and(|upstream| upstream.endpoints.is_some());
        if !has_endpoints {
            // Nothing connects to it. The proxy's configuration needs one all the same.
            text.push_str(&format!("\n[upstream.{name:?}]\nendpoints = \"http://127.0.0.1:1\"\n"));
        }
        let config = match Config::from_toml(self.file, &text) {
            Ok(config) => config,
            Err(mistakes) => {
                self.errors.extend(mistakes.errors);
                return None;
            }
        };
        let Some(place) = config.upstreams.iter().position(|upstream| upstream.name == name) else {
            self.error(
                0..0,
                format!("there is no upstream {name:?}"),
                "write the name of one that the file has",
            );
            return None;
        };
        let upstream = &config.upstreams[place];
        let route = config.routes.iter().find(|route| route.upstream == place);
        let policies = Policies {
            call: route.map_or(upstream.call, |route| route.call),
            breaker: upstream.breaker,
            outlier: upstream.outlier,
            balance: upstream.balance,
            // The configuration has checked that it is not 0.
            per_region: upstream.region_limit.and_then(|max_in_flight| {
                Valid::new(limit::Config { max_in_flight, ..limit::Config::default() }).ok()
            }),
            limit: upstream.limit,
            queue: upstream.queue,
            throttle: upstream.throttle,
            bulkhead: upstream.bulkhead,
        };
        Some((policies, Here { zone: config.zone.clone(), region: config.region.clone() }))
    }
}

/// The text with the lines of the simulator's own tables left empty, so that every other line keeps its number.
fn without_own_tables(text: &str) -> String {
    let mut own = false;
    let mut rest = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if let Some(header) = line.trim_start().strip_prefix('[') {
            let name = header.trim_start_matches('[').trim_start();
            let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
            own = OWN_TABLES.contains(&&name[..end]);
        }
        rest.push_str(if own { "\n" } else { line });
    }
    rest
}

// The tables as they are written.

#[derive(Deserialize)]
struct WithSimulation {
    simulation: RawSimulation,
}

#[derive(Deserialize)]
struct WithClients {
    clients: RawClients,
}

#[derive(Deserialize)]
struct WithService {
    service: RawService,
}

#[derive(Deserialize)]
struct WithUpstreams {
    #[serde(default)]
    upstream: BTreeMap<String, RawUpstream>,
}

#[derive(Deserialize)]
struct RawUpstream {
    endpoints: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSimulation {
    #[serde(default = "first_seed")]
    seed: u64,
    duration: Spanned<Time>,
    #[serde(default)]
    record: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClients {
    #[serde(default = "one_client")]
    count: Spanned<u32>,
    rate: Option<Spanned<f64>>,
    think: Option<Spanned<RawSpread>>,
    #[serde(default)]
    arrivals: Arrivals,
    #[serde(default)]
    repeat: RawRepeat,
    #[serde(default = "some_keys")]
    keys: Spanned<u32>,
    mix: Option<Spanned<BTreeMap<Spanned<String>, f64>>>,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "snake_case")]
enum Arrivals {
    #[default]
    Random,
    Even,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "snake_case")]
enum RawRepeat {
    #[default]
    Safe,
    Keyed,
    Never,
}

impl From<RawRepeat> for Repeat {
    fn from(raw: RawRepeat) -> Self {
        match raw {
            RawRepeat::Safe => Self::Safe,
            RawRepeat::Keyed => Self::Keyed,
            RawRepeat::Never => Self::Never,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    upstream: Option<Spanned<String>>,
    instances: Option<Spanned<u32>>,
    #[serde(default)]
    group: Vec<Spanned<RawGroup>>,
    servers: Option<Spanned<u32>>,
    queue: Option<u32>,
    guard: Option<Spanned<RawGuard>>,
    #[serde(default = "no_share")]
    refusal: Spanned<f64>,
    latency: Spanned<RawSpread>,
    #[serde(default = "no_share")]
    failures: Spanned<f64>,
    #[serde(default)]
    drops_cancelled: bool,
    #[serde(default)]
    change: Vec<RawChange>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChange {
    instance: Option<Spanned<RawInstances>>,
    region: Option<Spanned<String>>,
    zone: Option<Spanned<String>>,
    at: Time,
    lasts: Option<Time>,
    #[serde(default = "no_factor")]
    slower: Spanned<f64>,
    extra: Option<Time>,
    failures: Option<Spanned<f64>>,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    gone: bool,
}

impl From<RawChange> for Change {
    fn from(raw: RawChange) -> Self {
        let aim = Aim {
            instances: raw.instance.map(|numbers| numbers.into_inner().into()).unwrap_or_default(),
            region: raw.region.map(Spanned::into_inner),
            zone: raw.zone.map(Spanned::into_inner),
        };
        Self {
            aim,
            at: raw.at.0,
            lasts: raw.lasts.map(|lasts| lasts.0),
            slower: raw.slower.into_inner(),
            extra: raw.extra.map_or(Duration::ZERO, |extra| extra.0),
            failures: raw.failures.map(Spanned::into_inner),
            paused: raw.paused,
            gone: raw.gone,
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(
    untagged,
    expecting = "this is no distribution of times: write \"20ms\", { mean = \"20ms\" }, or { median = \"20ms\", sigma = 0.5 }"
)]
enum RawSpread {
    Constant(Time),
    Exponential { mean: Time },
    Lognormal { median: Time, sigma: f64 },
}

#[derive(Clone, Copy)]
struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        units::duration(&text)
            .map(Self)
            .map_err(|error| D::Error::custom(format!("the duration {}: {}", error.problem, error.remedy)))
    }
}

const fn first_seed() -> u64 {
    1
}

fn one_client() -> Spanned<u32> {
    Spanned::new(0..0, 1)
}

fn some_keys() -> Spanned<u32> {
    Spanned::new(0..0, 1000)
}

fn no_share() -> Spanned<f64> {
    Spanned::new(0..0, 0.0)
}

fn no_factor() -> Spanned<f64> {
    Spanned::new(0..0, 1.0)
}

/// The tables that the proxy's configuration does not have.
const OWN_TABLES: [&str; 3] = ["simulation", "clients", "service"];
/// The upstream of a scenario that names none.
const DEFAULT_UPSTREAM: &str = "service";
/// Each client keeps a window of latencies, some 40 kB: a hundred thousand are 4 GB.
const MOST_CLIENTS: u32 = 100_000;
/// A run of a hundred million calls takes minutes and a few gigabytes; more is a slip of the keyboard.
const MOST_CALLS: f64 = 1e8;
/// A client that is refused at once and calls again at once stops virtual time.
const LEAST_THINK: Duration = Duration::from_millis(1);
/// Beyond it, the mean is ruled by draws that no run contains.
const MOST_SIGMA: f64 = 5.0;

#[cfg(test)]
mod tests;

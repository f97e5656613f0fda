//! Where endpoints come from when nobody lists them: DNS, and a watched file.
//!
//! One function a source, each running for as long as its upstream exists: [`dns()`] and [`srv()`] ask again when an answer's time
//! to live is over, [`file()`] looks whether a file has changed. What they learn they tell as [`News`].
//!
//! All of them hold to one rule: **the last good answer stays** until a better one is there. A source that fails says so
//! ([`News::Trouble`]) and changes nothing, as an address that was right a minute ago is a better guess than none.
//!
//! What comes from a source is sorted and without doubles, so that equal answers are equal values.

mod addresses;
mod ask;
mod dns;
#[cfg(test)]
mod dns_server;
mod file;
mod srv;
mod targets;
mod tell;

use seaworthy_config::{Endpoint, Labels};

pub(crate) use dns::dns;
pub(crate) use file::file;
pub(crate) use srv::srv;

/// One address that calls may go to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Target {
    /// An address, or (from a file) a name that is resolved at each connection.
    pub(crate) host: String,
    /// The port, never 0.
    pub(crate) port: u16,
    /// Where it is, and its share.
    pub(crate) labels: Labels,
}

impl Target {
    pub(crate) fn new(address: Endpoint, labels: Labels) -> Self {
        Self { host: address.host, port: address.port, labels }
    }

    pub(crate) fn address(&self) -> Endpoint {
        Endpoint { host: self.host.clone(), port: self.port }
    }
}

/// What a source has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// These are the endpoints now, in place of all that the source told before. Told when they differ from what was told
    /// last, and once more when a trouble is over.
    Targets(Vec<Target>),
    /// The source fails: what, where and what to do about it. What it told before still holds. Told once for each trouble, not
    /// at each attempt that meets it.
    Trouble(String),
}

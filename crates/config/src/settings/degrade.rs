//! The settings of what a route answers with while its upstream has no answer.

use std::time::Duration;

use super::{FIELD_VALUE, Routing, STATUS};
use crate::degrade::Kind;
use crate::shape::{
    FIELD_NAME, FILE, Flag, FlagDefaults, ListOf, MEMBER, OneOf, Or, OrEmpty, REQUEST_PATH, Size, TEXT,
    TimeWithin,
};
use crate::table::{Table, fields};

/// What `[route.substitute]` says.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Replacing {
    pub upstream: String,
    pub path: Option<String>,
}

pub(super) const DEGRADE: OrEmpty<ListOf<OneOf<Kind>>> = OrEmpty(
    "off",
    ListOf(OneOf(&[
        (Kind::Stale.name(), Kind::Stale),
        (Kind::Upstream.name(), Kind::Upstream),
        (Kind::Static.name(), Kind::Static),
    ])),
);
/// What is older than a month is no answer any more.
const WITHIN: TimeWithin =
    TimeWithin { least: Duration::from_secs(1), most: Duration::from_secs(30 * 24 * 3600) };
/// Less than a kibibyte holds no page; more than 64 MiB is a download.
const ENTRY_BYTES: Size = Size { least: 1 << 10, most: 64 << 20 };
/// From what holds one entry of the default size to a tebibyte.
pub(super) const STALE_MEMORY: Size = Size { least: 1 << 20, most: 1 << 40 };

pub(super) static STALE: Table<Routing> = Table {
    name: "stale",
    doc: "Answers with the last good answer to the same request, for calls that would otherwise fail. It is marked as degraded. \
          Only what HTTP lets a shared cache store is stored.",
    fields: fields!(Routing {
        within: WITHIN => stale.within,
            "How long past its freshness it may be used; the origin's `stale-if-error` and `must-revalidate` count for more.";
        serve_fresh: Flag => stale.serve_fresh,
            "Whether it is also used while the upstream is well, as long as it is fresh or may be refreshed behind it (`stale-while-revalidate`).";
        entry_bytes: ENTRY_BYTES => stale.entry_bytes, "The most bytes of a body that is kept.";
        field: Or("off", MEMBER) => stale.field,
            "A member of a JSON object into which the time of its last update is written.";
        header: Or("off", FIELD_NAME) => stale.header, "The header that tells the time of its last update.";
    }),
    tables: &[],
};

pub(super) static SUBSTITUTE: Table<Routing> = Table {
    name: "substitute",
    doc: "Lets another upstream answer calls that would otherwise fail. Its answer is marked as degraded.",
    fields: fields!(Routing {
        upstream: TEXT => substitute.upstream, "The name of the other upstream. Required.";
        path: Or("same", REQUEST_PATH) => substitute.path, "What it is asked for.";
    }),
    tables: &[],
};

pub(super) static FALLBACK: Table<Routing> = Table {
    name: "fallback",
    doc: "A static answer for calls that would otherwise fail. It is marked as degraded.",
    fields: fields!(Routing {
        status: STATUS => fallback.status, "The status code.";
        content_type: FIELD_VALUE => fallback.content_type, "The `Content-Type`.";
        body: TEXT => fallback.body, "The body.";
        file: Or("none", FILE) => fallback.file,
            "A file with the body, relative to the folder of this file; read when the proxy starts.";
    }),
    tables: &[],
};

pub(super) static FLAGS: Table<Routing> = Table {
    name: "flags",
    doc: "The upstream is a feature flag service that speaks OFREP. While it has no answer, each flag is what it last was, or else its \
          default here. What it last was is kept in `data`.",
    fields: fields!(Routing {
        defaults: FlagDefaults => flags.defaults,
            "What each flag is as long as nobody has ever said so, by its key: the cautious choice, such as `{ new-checkout = false }`.";
    }),
    tables: &[],
};

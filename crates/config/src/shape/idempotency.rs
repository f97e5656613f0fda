//! How stores of keys and choices about them are written.

use toml::Spanned;
use toml::de::DeValue;

use super::{FIELD_NAME, Flag, ListOf, OneOf, Or, Parsed, Problem, Shape, TimeWithin};
use crate::idempotency::{Busy, PostgresUrl, Required};
use crate::value::Value;

/// Where a PostgreSQL server is. Shown without its password.
pub(crate) const POSTGRES_URL: Parsed<PostgresUrl> = Parsed {
    noun: "URL",
    remedy: "write one such as \"postgres://seaworthy:password@10.0.0.6:5432/keys\"",
    parse: PostgresUrl::parse,
    show: ToString::to_string,
};
/// The name of the header field that carries a key, in lower case.
pub(crate) const KEY_FIELD: Parsed<String> = Parsed {
    noun: "header name",
    remedy: IDEMPOTENCY_KEY_REMEDY,
    parse: |text| (FIELD_NAME.parse)(text).map_err(|(problem, _)| (problem, IDEMPOTENCY_KEY_REMEDY)),
    show: Clone::clone,
};
/// The schema of a database: a name that needs no quotes, of PostgreSQL's 63 bytes at most.
pub(crate) const SCHEMA: Parsed<String> = Parsed {
    noun: "name",
    remedy: SCHEMA_REMEDY,
    parse: |text| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(plain)
            && !text.starts_with(|c: char| c.is_ascii_digit());
        fits.then(|| text.to_owned()).ok_or_else(|| (format!("is {text:?}"), SCHEMA_REMEDY))
    },
    show: Clone::clone,
};

/// What another shape takes, or a word for nothing of that kind. Other than [`Or`], it does not offer the word: that is there so
/// that the listing of what is in force can be read again, and whoever writes a wrong value wants a right one.
pub(crate) struct OrUnsaid<S>(pub Or<S>);

impl<S: Shape> Shape for OrUnsaid<S> {
    type Out = Option<S::Out>;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self::Out> {
        let Or(word, shape) = &self.0;
        if value.get_ref().as_str() == Some(*word) {
            return Some(None);
        }
        shape.read(value, problems).map(Some)
    }

    fn show(&self, out: &Self::Out) -> Value {
        self.0.show(out)
    }

    fn schema(&self) -> Value {
        self.0.schema()
    }

    fn noun(&self) -> String {
        self.0.noun()
    }
}

/// For all methods, for none, or for those of a list.
pub(crate) struct RequiredOf(pub ListOf<OneOf<&'static str>>);

impl Shape for RequiredOf {
    type Out = Required;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Required> {
        if let DeValue::Boolean(all) = value.get_ref() {
            return Some(Required::All(*all));
        }
        let before = problems.len();
        let these = self.0.read(value, problems);
        problems[before..].iter_mut().for_each(|p| p.remedy.push_str("; or true for all, false for none"));
        these.map(Required::These)
    }

    fn show(&self, out: &Required) -> Value {
        match out {
            Required::All(all) => Value::Flag(*all),
            Required::These(these) => self.0.show(these),
        }
    }

    fn schema(&self) -> Value {
        Value::map([("anyOf", Value::List(vec![Flag.schema(), self.0.schema()]))])
    }

    fn noun(&self) -> String {
        format!("{}, or {}", Flag.noun(), self.0.noun())
    }
}

/// `"refuse"`, or how long to wait.
pub(crate) struct Waiting(pub TimeWithin);

impl Waiting {
    const REFUSE: &'static str = "refuse";

    const fn inner(&self) -> Or<TimeWithin> {
        let TimeWithin { least, most } = self.0;
        Or(Self::REFUSE, TimeWithin { least, most })
    }
}

impl Shape for Waiting {
    type Out = Busy;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Busy> {
        self.inner().read(value, problems).map(|wait| wait.map_or(Busy::Refuse, Busy::Wait))
    }

    fn show(&self, out: &Busy) -> Value {
        self.inner().show(&match out {
            Busy::Refuse => None,
            Busy::Wait(most) => Some(*most),
        })
    }

    fn schema(&self) -> Value {
        self.inner().schema()
    }

    fn noun(&self) -> String {
        self.inner().noun()
    }
}

/// What to write in place of a header that can't carry a key.
pub(crate) const IDEMPOTENCY_KEY_REMEDY: &str = "write one such as \"idempotency-key\"";
const SCHEMA_REMEDY: &str =
    "write small letters, digits and _, at most 63 of them and no digit first, such as \"seaworthy\"";

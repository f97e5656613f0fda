//! How a Rust type is written in TOML.
//!
//! A [`Shape`] is everything there is to know about that in one place: how a value is read and what is said when it can't be, how
//! it is shown, what the schema says of it, and what the reference calls it.

mod idempotency;
mod overload;
mod topology;

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use seaworthy_core::gate::breaker::Window;
use toml::Spanned;
use toml::de::DeValue;

use crate::address::{Host, Prefix};
use crate::nearest::nearest;
use crate::units::{self, UnitError};
use crate::value::Value;

pub(crate) use idempotency::{
    IDEMPOTENCY_KEY_REMEDY, KEY_FIELD, OrUnsaid, POSTGRES_URL, RequiredOf, SCHEMA, Waiting,
};
pub(crate) use overload::{FIELD_NAME, FILE, FlagDefaults, KEY_PREFIX, MEMBER, REDIS_URL};
pub(crate) use topology::{
    AUTHORITY, Command, DATA, Environment, FOLDER, HASH_ON, NumberWithin, OrEmpty, PATTERN, PLACE,
    REQUEST_PATH, RESOLVER, SERVICE, SourceOf, Statuses, VARIABLE, WEIGHT,
};

/// What is wrong with one value.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Where, in bytes.
    pub span: Range<usize>,
    /// The end of a sentence that the setting begins.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// How a type is written in TOML.
pub(crate) trait Shape: Sync + 'static {
    /// The type.
    type Out: 'static;

    /// Reads `value`, or tells everything that is wrong with it.
    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self::Out>;
    /// The value as it would be written.
    fn show(&self, out: &Self::Out) -> Value;
    /// What a JSON Schema says of it.
    fn schema(&self) -> Value;
    /// What it is, for people.
    fn noun(&self) -> String;
    /// Whether what is written is not for others to read.
    fn is_secret(&self) -> bool {
        false
    }
}

/// `true` or `false`.
pub(crate) struct Flag;

impl Shape for Flag {
    type Out = bool;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<bool> {
        let flag = value.get_ref().as_bool();
        flag.or_else(|| not_a(value, self, "write true or false, without quotes", problems))
    }

    fn show(&self, out: &bool) -> Value {
        Value::Flag(*out)
    }

    fn schema(&self) -> Value {
        Value::map([("type", Value::text("boolean"))])
    }

    fn noun(&self) -> String {
        "true or false".to_owned()
    }
}

/// A whole number from `least` to `most`.
pub(crate) struct Count<T> {
    least: u32,
    most: u32,
    /// Whether someone else judges what fits `T`, with better words.
    is_judged: bool,
    number: PhantomData<fn() -> T>,
}

/// Whole numbers of which the policy itself judges the range.
pub(crate) const COUNT: Count<u32> = judged(0, u32::MAX);

/// Whole numbers of which the policy itself finds that they go from `least` to `most`.
pub(crate) const fn judged<T>(least: u32, most: u32) -> Count<T> {
    Count { least, most, is_judged: true, number: PhantomData }
}

/// Whole numbers from `least` to `most`, which must fit `T`.
pub(crate) const fn within<T>(least: u32, most: u32) -> Count<T> {
    Count { least, most, is_judged: false, number: PhantomData }
}

impl<T: TryFrom<u32> + Into<u32> + Copy + 'static> Shape for Count<T> {
    type Out = T;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<T> {
        let remedy = format!("write a whole number from {} to {}", self.least, self.most);
        let DeValue::Integer(integer) = value.get_ref() else {
            return not_a(value, self, &remedy, problems);
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fits = |n: &u32| self.is_judged || (self.least..=self.most).contains(n);
        let number = number.filter(fits).and_then(|n| T::try_from(n).ok());
        number.or_else(|| {
            problems.push(Problem { span: value.span(), problem: format!("is {integer}"), remedy });
            None
        })
    }

    fn show(&self, out: &T) -> Value {
        Value::Whole(u64::from((*out).into()))
    }

    fn schema(&self) -> Value {
        let schema =
            Value::map([("type", Value::text("integer")), ("minimum", Value::Whole(self.least.into()))]);
        schema.with("maximum", Value::Whole(self.most.into()))
    }

    fn noun(&self) -> String {
        "whole number".to_owned()
    }
}

/// A number, of which the policy itself judges the range.
pub(crate) struct Number;

impl Shape for Number {
    type Out = f64;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<f64> {
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|whole| whole as f64)
            }
            _ => None,
        };
        number.or_else(|| not_a(value, self, "write a number such as 0.5, without quotes", problems))
    }

    fn show(&self, out: &f64) -> Value {
        Value::Number(*out)
    }

    fn schema(&self) -> Value {
        Value::map([("type", Value::text("number"))])
    }

    fn noun(&self) -> String {
        "number".to_owned()
    }
}

/// A duration such as `"1m30s"`.
pub(crate) struct Time;

impl Shape for Time {
    type Out = Duration;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Duration> {
        let remedy = match value.get_ref() {
            DeValue::Integer(n) if n.radix() == 10 => {
                format!("write it with its unit, such as \"{n}s\" or \"{n}ms\"")
            }
            _ => "write a duration such as \"250ms\", \"2s\" or \"1m30s\"".to_owned(),
        };
        let text = text_of(value, self, &remedy, problems)?;
        units::duration(text).map_err(|error| problems.push(unit_problem(value, error))).ok()
    }

    fn show(&self, out: &Duration) -> Value {
        Value::Text(units::show_duration(*out))
    }

    fn schema(&self) -> Value {
        pattern("^(?=.)([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?([0-9]+ns)?$")
    }

    fn noun(&self) -> String {
        "duration".to_owned()
    }
}

/// A duration from `least` to `most`.
pub(crate) struct TimeWithin {
    pub least: Duration,
    pub most: Duration,
}

impl Shape for TimeWithin {
    type Out = Duration;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Duration> {
        let duration = Time.read(value, problems)?;
        let fits = (self.least..=self.most).contains(&duration);
        if !fits {
            let show = units::show_duration;
            let remedy = format!("write a duration from {:?} to {:?}", show(self.least), show(self.most));
            problems.push(Problem {
                span: value.span(),
                problem: format!("is {:?}", show(duration)),
                remedy,
            });
        }
        fits.then_some(duration)
    }

    fn show(&self, out: &Duration) -> Value {
        Time.show(out)
    }

    fn schema(&self) -> Value {
        Time.schema()
    }

    fn noun(&self) -> String {
        Time.noun()
    }
}

/// A size from `least` to `most` bytes, such as `"64KiB"`.
pub(crate) struct Size {
    pub least: u64,
    pub most: u64,
}

impl Shape for Size {
    type Out = u64;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<u64> {
        let text = text_of(value, self, "write a size such as \"64KiB\" or \"1MiB\"", problems)?;
        let size = units::size(text).map_err(|error| problems.push(unit_problem(value, error))).ok()?;
        let fits = (self.least..=self.most).contains(&size);
        if !fits {
            let (least, most) = (units::show_size(self.least), units::show_size(self.most));
            let remedy = format!("write a size from {least:?} to {most:?}");
            problems.push(Problem { span: value.span(), problem: format!("is {text:?}"), remedy });
        }
        fits.then_some(size)
    }

    fn show(&self, out: &u64) -> Value {
        Value::Text(units::show_size(*out))
    }

    fn schema(&self) -> Value {
        pattern("^[0-9]+([KMG]i)?B$")
    }

    fn noun(&self) -> String {
        "size".to_owned()
    }
}

/// One of a few words.
pub(crate) struct OneOf<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy + PartialEq + Sync + 'static> Shape for OneOf<T> {
    type Out = T;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<T> {
        let words = || self.0.iter().map(|(word, _)| *word);
        let one_of = format!("write {}", listed(words()));
        let text = text_of(value, self, &one_of, problems)?;
        let known = self.0.iter().find(|(word, _)| *word == text).map(|(_, known)| *known);
        known.or_else(|| {
            let remedy = match nearest(text, words()) {
                Some(near) => format!("did you mean {near:?}? It can be {}", listed(words())),
                None => one_of,
            };
            problems.push(Problem {
                span: value.span(),
                problem: format!("is {text:?}, which is not known"),
                remedy,
            });
            None
        })
    }

    fn show(&self, out: &T) -> Value {
        Value::text(self.0.iter().find(|(_, known)| known == out).map_or("", |(word, _)| *word))
    }

    fn schema(&self) -> Value {
        Value::map([("enum", Value::List(self.0.iter().map(|(word, _)| Value::text(*word)).collect()))])
    }

    fn noun(&self) -> String {
        listed(self.0.iter().map(|(word, _)| *word))
    }
}

/// What another shape takes, or a word for nothing of that kind.
pub(crate) struct Or<S>(pub &'static str, pub S);

impl<S: Shape> Shape for Or<S> {
    type Out = Option<S::Out>;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self::Out> {
        if value.get_ref().as_str() == Some(self.0) {
            return Some(None);
        }
        let before = problems.len();
        let read = self.1.read(value, problems);
        let meant = value.get_ref().as_str().and_then(|text| nearest(text, [self.0]));
        for problem in &mut problems[before..] {
            match meant {
                Some(word) => problem.remedy = format!("did you mean {word:?}?"),
                None => problem.remedy.push_str(&format!(", or {:?}", self.0)),
            }
        }
        read.map(Some)
    }

    fn show(&self, out: &Self::Out) -> Value {
        out.as_ref().map_or(Value::text(self.0), |inner| self.1.show(inner))
    }

    fn schema(&self) -> Value {
        let word = Value::map([("const", Value::text(self.0))]);
        Value::map([("anyOf", Value::List(vec![word, self.1.schema()]))])
    }

    fn noun(&self) -> String {
        format!("{}, or {:?}", self.1.noun(), self.0)
    }
}

/// What another shape takes, which is a secret: no message repeats it, and no line that one shows does.
pub(crate) struct Secret<S>(pub S);

impl<S: Shape> Shape for Secret<S> {
    type Out = S::Out;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<S::Out> {
        let before = problems.len();
        let read = self.0.read(value, problems);
        // What shapes repeat of a value is its description, where it is of another type.
        let (told, is) = (described(value.get_ref()), kind(value.get_ref()));
        problems[before..].iter_mut().for_each(|p| p.problem = p.problem.replace(&told, is));
        read
    }

    fn show(&self, out: &S::Out) -> Value {
        self.0.show(out)
    }

    fn schema(&self) -> Value {
        self.0.schema()
    }

    fn noun(&self) -> String {
        self.0.noun()
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// One of what another shape takes, or a list of them.
pub(crate) struct ListOf<S>(pub S);

impl<S: Shape> Shape for ListOf<S>
where
    S::Out: PartialEq,
{
    type Out = Vec<S::Out>;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self::Out> {
        let DeValue::Array(items) = value.get_ref() else {
            return self.0.read(value, problems).map(|one| vec![one]);
        };
        let before = problems.len();
        if items.is_empty() {
            let (problem, remedy) =
                ("is an empty list".to_owned(), format!("write at least one {}", self.0.noun()));
            problems.push(Problem { span: value.span(), problem, remedy });
        }
        let mut out = Vec::new();
        for item in items.iter() {
            let Some(read) = self.0.read(item, problems) else { continue };
            if out.contains(&read) {
                let problem = format!("holds {} twice", self.0.show(&read));
                problems.push(Problem {
                    span: item.span(),
                    problem,
                    remedy: "remove one of them".to_owned(),
                });
            } else {
                out.push(read);
            }
        }
        (problems.len() == before).then_some(out)
    }

    fn show(&self, out: &Self::Out) -> Value {
        Value::List(out.iter().map(|item| self.0.show(item)).collect())
    }

    fn schema(&self) -> Value {
        let list = Value::map([("type", Value::text("array")), ("items", self.0.schema())]);
        Value::map([("anyOf", Value::List(vec![self.0.schema(), list.with("minItems", Value::Whole(1))]))])
    }

    fn noun(&self) -> String {
        format!("{}, or a list", self.0.noun())
    }
}

/// A text that `parse` understands.
pub(crate) struct Parsed<T: 'static> {
    noun: &'static str,
    remedy: &'static str,
    parse: fn(&str) -> Result<T, (String, &'static str)>,
    show: fn(&T) -> String,
}

/// An IP address with a port.
pub(crate) const ADDRESS: Parsed<SocketAddr> = Parsed {
    noun: "address",
    remedy: ADDRESS_REMEDY,
    parse: |text| {
        text.parse()
            .map_err(|_| (format!("is {text:?}, which is not an IP address with a port"), ADDRESS_REMEDY))
    },
    show: ToString::to_string,
};
/// A host, or a pattern of hosts.
pub(crate) const HOST: Parsed<Host> = Parsed {
    noun: "host",
    remedy: "write a host such as \"shop.example.com\"",
    parse: Host::parse,
    show: ToString::to_string,
};
/// The beginning of a path.
pub(crate) const PREFIX: Parsed<Prefix> = Parsed {
    noun: "path prefix",
    remedy: "write the beginning of a path, such as \"/api\"",
    parse: Prefix::parse,
    show: ToString::to_string,
};
/// Any text.
pub(crate) const TEXT: Parsed<String> = Parsed {
    noun: "text",
    remedy: "write it in quotes",
    parse: |text| Ok(text.to_owned()),
    show: Clone::clone,
};
/// A name for metrics and records: short and printable.
pub(crate) const NAME: Parsed<String> =
    Parsed { noun: "name", remedy: "write it in quotes", parse: name, show: Clone::clone };
/// The value of a header field.
pub(crate) const FIELD_VALUE: Parsed<String> = Parsed {
    noun: "header value",
    remedy: "write it in quotes",
    parse: |text| {
        let fits = !text.is_empty()
            && text.trim() == text
            && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let remedy = "write what a header can hold, such as \"application/json\"";
        if fits { Ok(text.to_owned()) } else { Err((format!("is {text:?}"), remedy)) }
    },
    show: Clone::clone,
};

/// Checks a name for metrics and records.
pub(crate) fn name(text: &str) -> Result<String, (String, &'static str)> {
    let fits = text.chars().count() <= 100 && !text.trim().is_empty() && !text.chars().any(char::is_control);
    let remedy = "a name has 1 to 100 printable characters";
    if fits { Ok(text.to_owned()) } else { Err((format!("is {text:?}"), remedy)) }
}

impl<T: 'static> Shape for Parsed<T> {
    type Out = T;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<T> {
        let text = text_of(value, self, self.remedy, problems)?;
        let parsed = (self.parse)(text);
        parsed
            .map_err(|(problem, remedy)| {
                problems.push(Problem { span: value.span(), problem, remedy: remedy.to_owned() });
            })
            .ok()
    }

    fn show(&self, out: &T) -> Value {
        Value::Text((self.show)(out))
    }

    fn schema(&self) -> Value {
        Value::map([("type", Value::text("string"))])
    }

    fn noun(&self) -> String {
        self.noun.to_owned()
    }
}

/// A window of a breaker: a duration, or a number of calls.
pub(crate) struct Sliding;

impl Shape for Sliding {
    type Out = Window;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Window> {
        if matches!(value.get_ref(), DeValue::Integer(_)) {
            return COUNT.read(value, problems).map(Window::Count);
        }
        let remedy =
            "write how far back it reaches: a duration such as \"10s\", or a number of calls such as 100";
        let text = text_of(value, self, remedy, problems)?;
        units::duration(text)
            .map(Window::Time)
            .map_err(|error| problems.push(unit_problem(value, error)))
            .ok()
    }

    fn show(&self, out: &Window) -> Value {
        match out {
            Window::Time(duration) => Time.show(duration),
            Window::Count(calls) => COUNT.show(calls),
        }
    }

    fn schema(&self) -> Value {
        Value::map([("anyOf", Value::List(vec![Time.schema(), COUNT.schema()]))])
    }

    fn noun(&self) -> String {
        "duration, or number of calls".to_owned()
    }
}

/// The text that `value` is, or a problem that says what it is instead.
fn text_of<'v, S: Shape>(
    value: &'v Spanned<DeValue<'_>>,
    shape: &S,
    remedy: &str,
    problems: &mut Vec<Problem>,
) -> Option<&'v str> {
    let text = value.get_ref().as_str();
    text.or_else(|| not_a(value, shape, remedy, problems))
}

fn not_a<S: Shape, T>(
    value: &Spanned<DeValue<'_>>,
    shape: &S,
    remedy: &str,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let problem = format!("is {}, not {}", described(value.get_ref()), with_article(&shape.noun()));
    problems.push(Problem { span: value.span(), problem, remedy: remedy.to_owned() });
    None
}

fn unit_problem(value: &Spanned<DeValue<'_>>, error: UnitError) -> Problem {
    Problem { span: value.span(), problem: error.problem, remedy: error.remedy }
}

/// What a value is, in words.
pub(crate) fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(integer) => format!("the number {integer}"),
        DeValue::Float(float) => format!("the number {}", float.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(datetime) => format!("the date {datetime}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// What a value is, in words that don't repeat it.
pub(crate) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn with_article(noun: &str) -> String {
    match noun.chars().next() {
        Some('"' | '`') => noun.to_owned(),
        _ if noun == "true or false" => noun.to_owned(),
        Some('a' | 'e' | 'i' | 'o') => format!("an {noun}"),
        _ => format!("a {noun}"),
    }
}

/// Words in a sentence: `"a"`, `"b"` or `"c"`.
pub(crate) fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn pattern(pattern: &str) -> Value {
    Value::map([("type", Value::text("string")), ("pattern", Value::text(pattern))])
}

const ADDRESS_REMEDY: &str = "write an IP address and a port, such as \"127.0.0.1:8080\"";

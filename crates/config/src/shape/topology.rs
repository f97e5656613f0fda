//! How places, checks and programs are written.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Count, Number, Parsed, Problem, Shape, TEXT, described, listed, not_a, text_of, within};
use crate::address::{is_host, split_port};
use crate::health::{Pattern, StatusRange};
use crate::nearest::nearest;
use crate::sources::{HashOn, Labels, Spelt, Written, is_plain};
use crate::value::Value;

/// The name of a zone or a region; empty if it is unknown.
pub(crate) const PLACE: Parsed<String> =
    Parsed { noun: "name", remedy: PLACE_REMEDY, parse: place, show: Clone::clone };
/// A share of the traffic.
pub(crate) const WEIGHT: Count<u32> = within(1, Labels::MOST_WEIGHT);
/// A folder for what the proxy keeps, as any path.
pub(crate) const DATA: Parsed<PathBuf> = Parsed {
    noun: "path",
    remedy: DATA_REMEDY,
    parse: |text| folder(text).map_err(|(problem, _)| (problem, DATA_REMEDY)),
    show: |path| path.display().to_string(),
};
/// A folder, as any path.
pub(crate) const FOLDER: Parsed<PathBuf> =
    Parsed { noun: "path", remedy: FOLDER_REMEDY, parse: folder, show: |path| path.display().to_string() };
/// The path of a request.
pub(crate) const REQUEST_PATH: Parsed<String> = Parsed {
    noun: "path",
    remedy: REQUEST_PATH_REMEDY,
    parse: |text| {
        let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        let error = || (format!("is {text:?}, which is not the path of a request"), REQUEST_PATH_REMEDY);
        fits.then(|| text.to_owned()).ok_or_else(error)
    },
    show: Clone::clone,
};
/// What a `Host` field holds.
pub(crate) const AUTHORITY: Parsed<String> = Parsed {
    noun: "host",
    remedy: AUTHORITY_REMEDY,
    parse: |text| {
        let lower = text.to_ascii_lowercase();
        let fits = split_port(&lower).is_some_and(|(host, _)| is_host(host));
        let error = || (format!("is {text:?}, which is not a host"), AUTHORITY_REMEDY);
        fits.then_some(lower.clone()).ok_or_else(error)
    },
    show: Clone::clone,
};
/// The name of a gRPC service; empty for the whole server.
pub(crate) const SERVICE: Parsed<String> = Parsed {
    noun: "service",
    remedy: SERVICE_REMEDY,
    parse: |text| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        let fits = text.len() <= 256 && text.bytes().all(plain);
        let error = || (format!("is {text:?}, which is not the name of a service"), SERVICE_REMEDY);
        fits.then(|| text.to_owned()).ok_or_else(error)
    },
    show: Clone::clone,
};
/// A regular expression.
pub(crate) const PATTERN: Parsed<Pattern> = Parsed {
    noun: "regular expression",
    remedy: PATTERN_REMEDY,
    parse: |text| {
        let problem = |error| format!("is {text:?}, which is not a regular expression ({error})");
        Pattern::parse(text).map_err(|error| (problem(error), PATTERN_REMEDY))
    },
    show: |pattern| pattern.as_str().to_owned(),
};
/// A DNS server.
pub(crate) const RESOLVER: Parsed<SocketAddr> = Parsed {
    noun: "address",
    remedy: RESOLVER_REMEDY,
    parse: |text| {
        let error = |_| (format!("is {text:?}, which is not an IP address with a port"), RESOLVER_REMEDY);
        text.parse().map_err(error)
    },
    show: ToString::to_string,
};
/// What calls stick to.
pub(crate) const HASH_ON: Parsed<HashOn> = Parsed {
    noun: "\"none\", \"source\", \"header:NAME\" or \"cookie:NAME\"",
    remedy: HASH_ON_REMEDY,
    parse: |text| {
        let error = || (format!("is {text:?}"), HASH_ON_REMEDY);
        match text.split_once(':') {
            None if text == "none" => Ok(HashOn::None),
            None if text == "source" => Ok(HashOn::Source),
            Some(("header", name)) if is_token(name) => Ok(HashOn::Header(name.to_ascii_lowercase())),
            Some(("cookie", name)) if is_token(name) => Ok(HashOn::Cookie(name.to_owned())),
            _ => Err(error()),
        }
    },
    show: |hash_on| match hash_on {
        HashOn::None => "none".to_owned(),
        HashOn::Source => "source".to_owned(),
        HashOn::Header(name) => format!("header:{name}"),
        HashOn::Cookie(name) => format!("cookie:{name}"),
    },
};
/// The name of an environment variable.
pub(crate) const VARIABLE: Parsed<String> =
    Parsed { noun: "variable", remedy: VARIABLE_REMEDY, parse: variable, show: Clone::clone };

/// A source of instances: its URL, or a table that holds its URL and what is known about it.
pub(crate) struct SourceOf;

impl Shape for SourceOf {
    type Out = Written;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Written> {
        if let DeValue::Table(table) = value.get_ref() {
            return labelled(table, value, problems);
        }
        let at = URL.read(value, problems)?;
        Some(Written { at, span: value.span(), zone: None, region: None, weight: None })
    }

    fn show(&self, out: &Written) -> Value {
        let url = URL.show(&out.at);
        let labels = [
            ("zone", out.zone.as_ref().map(|zone| PLACE.show(zone))),
            ("region", out.region.as_ref().map(|region| PLACE.show(region))),
            ("weight", out.weight.as_ref().map(|weight| WEIGHT.show(weight))),
        ];
        if labels.iter().all(|(_, label)| label.is_none()) {
            return url;
        }
        let table = Value::map([("url", url)]);
        let labels = labels.into_iter().filter_map(|(key, label)| Some((key, label?)));
        labels.fold(table, |table, (key, label)| table.with(key, label))
    }

    fn schema(&self) -> Value {
        let properties = Value::map([
            ("url", URL.schema()),
            ("zone", PLACE.schema()),
            ("region", PLACE.schema()),
            ("weight", WEIGHT.schema()),
        ]);
        let table = Value::map([("type", Value::text("object")), ("properties", properties)])
            .with("additionalProperties", Value::Flag(false))
            .with("required", Value::List(vec![Value::text("url")]));
        Value::map([("anyOf", Value::List(vec![URL.schema(), table]))])
    }

    fn noun(&self) -> String {
        "URL, or a table with one".to_owned()
    }
}

const URL: Parsed<Spelt> = Parsed {
    noun: "URL",
    remedy: "write a URL such as \"http://127.0.0.1:3000\"",
    parse: Spelt::parse,
    show: ToString::to_string,
};

/// Reads `{ url = "http://10.0.0.1", zone = "a", region = "eu", weight = 2 }`.
fn labelled(
    table: &DeTable<'_>,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Vec<Problem>,
) -> Option<Written> {
    let before = problems.len();
    for key in table.keys() {
        let word = key.get_ref().as_ref();
        if !LABELS.contains(&word) {
            let remedy = match nearest(word, LABELS) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("the keys here are {}", LABELS.join(", ")),
            };
            let problem = format!("holds the key {word:?}, which is not known");
            problems.push(Problem { span: key.span(), problem, remedy });
        }
    }
    let at = match table.get("url") {
        Some(url) => part("url", &URL, url, problems),
        None => {
            let remedy = "write { url = \"http://127.0.0.1:3000\", zone = \"a\" }".to_owned();
            problems.push(Problem {
                span: value.span(),
                problem: "holds a table without url".to_owned(),
                remedy,
            });
            None
        }
    };
    let [zone, region] = ["zone", "region"].map(|key| part(key, &PLACE, table.get(key)?, problems));
    let weight = table.get("weight").and_then(|weight| part("weight", &WEIGHT, weight, problems));
    let written = Written { at: at?, span: value.span(), zone, region, weight };
    (problems.len() == before).then_some(written)
}

/// Reads the value of `key` in an inline table, and says what it is the value of.
fn part<S: Shape>(
    key: &str,
    shape: &S,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Vec<Problem>,
) -> Option<S::Out> {
    let before = problems.len();
    let read = shape.read(value, problems);
    for problem in &mut problems[before..] {
        problem.problem = format!("holds a {key} that {}", problem.problem);
    }
    read
}

/// A program and its arguments.
pub(crate) struct Command {
    /// Whether an empty list, for none, will do.
    pub is_optional: bool,
}

impl Shape for Command {
    type Out = Vec<String>;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self::Out> {
        let mut fail = |span, problem: String, remedy: &str| {
            problems.push(Problem { span, problem, remedy: remedy.to_owned() });
            None
        };
        let words: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            DeValue::String(text) if text.contains(char::is_whitespace) => {
                let list: Vec<String> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
                let remedy = format!("no shell takes it apart; write it as a list: [{}]", list.join(", "));
                return fail(value.span(), format!("is {text:?}, which holds spaces"), &remedy);
            }
            DeValue::String(_) => vec![value],
            _ => return not_a(value, self, COMMAND_REMEDY, problems),
        };
        let mut command = Vec::new();
        for word in &words {
            match word.get_ref().as_str() {
                Some(text) if text.contains('\0') => {
                    return fail(
                        word.span(),
                        "holds a NUL".to_owned(),
                        "no argument can hold it; leave it out",
                    );
                }
                Some(text) => command.push(text.to_owned()),
                None => {
                    let problem = format!("holds {}, not a text", described(word.get_ref()));
                    return fail(word.span(), problem, "write each argument in quotes");
                }
            }
        }
        if command.is_empty() && self.is_optional {
            return Some(command);
        }
        if command.first().is_none_or(String::is_empty) {
            return fail(value.span(), "names no program".to_owned(), COMMAND_REMEDY);
        }
        Some(command)
    }

    fn show(&self, out: &Self::Out) -> Value {
        Value::List(out.iter().map(Value::text).collect())
    }

    fn schema(&self) -> Value {
        let list = Value::map([("type", Value::text("array")), ("items", TEXT.schema())]);
        Value::map([(
            "anyOf",
            Value::List(vec![
                TEXT.schema(),
                list.with("minItems", Value::Whole(u64::from(!self.is_optional))),
            ]),
        )])
    }

    fn noun(&self) -> String {
        "list of texts".to_owned()
    }
}

/// Environment variables. They may hold secrets, so only their names are shown.
pub(crate) struct Environment;

impl Shape for Environment {
    type Out = Vec<(String, String)>;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self::Out> {
        let DeValue::Table(table) = value.get_ref() else {
            return not_a(value, self, "write { LOG_LEVEL = \"info\" }", problems);
        };
        let before = problems.len();
        let mut pairs: Vec<_> = table.iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        let mut out = Vec::new();
        for (key, value) in pairs {
            let name = key.get_ref().as_ref();
            if let Err((problem, remedy)) = variable(name) {
                let problem = format!("holds a name that {problem}");
                problems.push(Problem { span: key.span(), problem, remedy: remedy.to_owned() });
            }
            match value.get_ref().as_str() {
                Some(text) if !text.contains('\0') => out.push((name.to_owned(), text.to_owned())),
                _ => {
                    let is = if value.get_ref().is_str() { "a text with a NUL" } else { "no text" };
                    let problem = format!("holds {name}, which is {is}");
                    let remedy = "the values of variables are texts; write it in quotes".to_owned();
                    problems.push(Problem { span: value.span(), problem, remedy });
                }
            }
        }
        (problems.len() == before).then_some(out)
    }

    fn show(&self, out: &Self::Out) -> Value {
        Value::Map(out.iter().map(|(name, _)| (name.clone(), Value::text("(not shown)"))).collect())
    }

    fn schema(&self) -> Value {
        let texts = Value::map([("type", Value::text("string"))]);
        Value::map([("type", Value::text("object")), ("additionalProperties", texts)])
    }

    fn noun(&self) -> String {
        "table of texts".to_owned()
    }
}

/// Status codes: one, or the first and the last of some.
pub(crate) struct Statuses;

impl Shape for Statuses {
    type Out = StatusRange;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<StatusRange> {
        let text = match value.get_ref() {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => text_of(value, self, STATUSES_REMEDY, problems)?,
        };
        let range = StatusRange::parse(text);
        range.or_else(|| {
            let problem = format!("is {text:?}, which are no status codes");
            problems.push(Problem { span: value.span(), problem, remedy: STATUSES_REMEDY.to_owned() });
            None
        })
    }

    fn show(&self, out: &StatusRange) -> Value {
        Value::Text(out.to_string())
    }

    fn schema(&self) -> Value {
        let code = Value::map([("type", Value::text("integer"))])
            .with("minimum", Value::Whole(100))
            .with("maximum", Value::Whole(599));
        Value::map([("anyOf", Value::List(vec![super::pattern("^[1-5][0-9]{2}(-[1-5][0-9]{2})?$"), code]))])
    }

    fn noun(&self) -> String {
        "range of status codes".to_owned()
    }
}

/// A number from `least` to `most`.
pub(crate) struct NumberWithin {
    pub least: f64,
    pub most: f64,
}

impl Shape for NumberWithin {
    type Out = f64;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<f64> {
        let number = Number.read(value, problems)?;
        // Not a number is in no range either.
        let fits = (self.least..=self.most).contains(&number);
        if !fits {
            let remedy = format!("write a number from {} to {}", self.least, self.most);
            problems.push(Problem { span: value.span(), problem: format!("is {number:?}"), remedy });
        }
        fits.then_some(number)
    }

    fn show(&self, out: &f64) -> Value {
        Number.show(out)
    }

    fn schema(&self) -> Value {
        Number.schema().with("minimum", Value::Number(self.least)).with("maximum", Value::Number(self.most))
    }

    fn noun(&self) -> String {
        Number.noun()
    }
}

/// A list, or a word for an empty one.
pub(crate) struct OrEmpty<S>(pub &'static str, pub S);

impl<S: Shape<Out = Vec<T>>, T: 'static> Shape for OrEmpty<S> {
    type Out = Vec<T>;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Vec<T>> {
        if value.get_ref().as_str() == Some(self.0) {
            return Some(Vec::new());
        }
        let before = problems.len();
        let read = self.1.read(value, problems);
        problems[before..].iter_mut().for_each(|p| p.remedy.push_str(&format!(", or {:?}", self.0)));
        read
    }

    fn show(&self, out: &Vec<T>) -> Value {
        if out.is_empty() { Value::text(self.0) } else { self.1.show(out) }
    }

    fn schema(&self) -> Value {
        let word = Value::map([("const", Value::text(self.0))]);
        Value::map([("anyOf", Value::List(vec![word, self.1.schema()]))])
    }

    fn noun(&self) -> String {
        format!("{}, or {}", self.1.noun(), listed(std::iter::once(self.0)))
    }
}

fn place(text: &str) -> Result<String, (String, &'static str)> {
    if text.is_empty() || is_plain(text) {
        return Ok(text.to_owned());
    }
    Err((format!("is {text:?}, which metrics and records can't use"), PLACE_REMEDY))
}

fn folder(text: &str) -> Result<PathBuf, (String, &'static str)> {
    let fits = !text.is_empty() && !text.contains('\0');
    fits.then(|| PathBuf::from(text)).ok_or_else(|| (format!("is {text:?}"), FOLDER_REMEDY))
}

/// A name that every shell and program can read (POSIX.1-2017, section 8.1, in either case).
fn variable(text: &str) -> Result<String, (String, &'static str)> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let fits = text.bytes().all(plain) && text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    fits.then(|| text.to_owned()).ok_or_else(|| (format!("is {text:?}"), VARIABLE_REMEDY))
}

/// A name of a field or a cookie (RFC 9110, section 5.6.2; RFC 6265, section 4.1.1).
pub(super) fn is_token(name: &str) -> bool {
    let mark = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || mark(b))
}

const RESOLVER_REMEDY: &str = "write an IP address and a port, such as \"10.0.0.2:53\"";
const LABELS: [&str; 4] = ["url", "zone", "region", "weight"];
const PLACE_REMEDY: &str =
    "write a name such as \"eu-west-1a\": letters, digits, - and _, at most 64 of them";
const DATA_REMEDY: &str =
    "write the path of a folder, such as \"/var/lib/seaworthy\", or \"seaworthy-data\" beside this file";
const FOLDER_REMEDY: &str = "write the path of a folder, such as \"/srv/api\"";
const REQUEST_PATH_REMEDY: &str = "write what the request asks for, such as \"/health\"";
const AUTHORITY_REMEDY: &str = "write a host such as \"shop.example.com\", with a port if it needs one";
const SERVICE_REMEDY: &str =
    "write its full name, such as \"shop.v1.Catalogue\"; leave it out for the whole server";
const PATTERN_REMEDY: &str = "write one such as \"\\\"status\\\": *\\\"(ok|warn)\\\"\"; in single quotes, '\"ok\"', nothing needs a backslash twice";
const HASH_ON_REMEDY: &str =
    "write \"header:x-user\", \"cookie:session\", \"source\" (the client's address) or \"none\"";
const VARIABLE_REMEDY: &str =
    "a variable's name has letters, digits and _, and begins with no digit, such as \"PORT\"";
const COMMAND_REMEDY: &str = "write the program and its arguments, such as [\"./api\", \"--verbose\"]";
const STATUSES_REMEDY: &str = "write a code such as \"204\" or a range such as \"200-299\", from 100 to 599";

//! How stores, files and flags are written.

use std::path::PathBuf;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::DeValue;

use super::topology::is_token;
use super::{Parsed, Problem, Shape, described, not_a};
use crate::overload::RedisUrl;
use crate::sources::is_plain;
use crate::value::Value;

/// Where a Redis server is. Shown without its password.
pub(crate) const REDIS_URL: Parsed<RedisUrl> = Parsed {
    noun: "URL",
    remedy: "write one such as \"redis://10.0.0.5:6379\"",
    parse: RedisUrl::parse,
    show: ToString::to_string,
};
/// What keys in a store begin with.
pub(crate) const KEY_PREFIX: Parsed<String> = Parsed {
    noun: "name",
    remedy: KEY_PREFIX_REMEDY,
    parse: |text| {
        is_plain(text).then(|| text.to_owned()).ok_or_else(|| (format!("is {text:?}"), KEY_PREFIX_REMEDY))
    },
    show: Clone::clone,
};
/// The name of a header field, in lower case.
pub(crate) const FIELD_NAME: Parsed<String> = Parsed {
    noun: "header name",
    remedy: FIELD_NAME_REMEDY,
    parse: |text| {
        let error = || (format!("is {text:?}, which is not the name of a header"), FIELD_NAME_REMEDY);
        is_token(text).then(|| text.to_ascii_lowercase()).ok_or_else(error)
    },
    show: Clone::clone,
};
/// A member of a JSON object.
pub(crate) const MEMBER: Parsed<String> = Parsed {
    noun: "member name",
    remedy: MEMBER_REMEDY,
    parse: |text| {
        let fits = !text.is_empty() && !text.chars().any(char::is_control);
        fits.then(|| text.to_owned()).ok_or_else(|| (format!("is {text:?}"), MEMBER_REMEDY))
    },
    show: Clone::clone,
};
/// A file, as any path.
pub(crate) const FILE: Parsed<PathBuf> = Parsed {
    noun: "path",
    remedy: FILE_REMEDY,
    parse: |text| {
        let fits = !text.is_empty() && !text.ends_with('/') && !text.contains('\0');
        let error = || (format!("is {text:?}, which names no file"), FILE_REMEDY);
        fits.then(|| PathBuf::from(text)).ok_or_else(error)
    },
    show: |path| path.display().to_string(),
};

/// What flags are, by their keys, in the order of the text.
pub(crate) struct FlagDefaults;

impl Shape for FlagDefaults {
    type Out = Vec<(String, Json)>;

    fn read(&self, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Self::Out> {
        let DeValue::Table(table) = value.get_ref() else {
            return not_a(value, self, "write { new-checkout = false }", problems);
        };
        let before = problems.len();
        let mut pairs: Vec<_> = table.iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        let mut out = Vec::new();
        for (key, value) in pairs {
            let name = key.get_ref().as_ref();
            if name.trim().is_empty() || name.chars().any(char::is_control) {
                let problem = format!("holds a flag called {name:?}");
                let remedy = "a flag's key has printable characters, such as \"new-checkout\"".to_owned();
                problems.push(Problem { span: key.span(), problem, remedy });
            }
            if let Some(value) = json(name, value, problems) {
                out.push((name.to_owned(), value));
            }
        }
        (problems.len() == before).then_some(out)
    }

    fn show(&self, out: &Self::Out) -> Value {
        Value::Map(out.iter().map(|(key, json)| (key.clone(), shown(json))).collect())
    }

    fn schema(&self) -> Value {
        Value::map([("type", Value::text("object"))])
    }

    fn noun(&self) -> String {
        "table of flags".to_owned()
    }
}

/// The value of a flag: whatever JSON can say of what TOML can.
fn json(flag: &str, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Json> {
    let read = match value.get_ref() {
        DeValue::String(text) => Some(Json::from(text.as_ref())),
        DeValue::Boolean(is) => Some(Json::from(*is)),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(Json::from),
        // JSON knows neither infinity nor what is no number.
        DeValue::Float(n) => n.as_str().parse().ok().and_then(serde_json::Number::from_f64).map(Json::Number),
        DeValue::Datetime(_) => None,
        DeValue::Array(items) => {
            return items
                .iter()
                .map(|item| json(flag, item, problems))
                .collect::<Option<_>>()
                .map(Json::Array);
        }
        DeValue::Table(table) => {
            let members =
                table.iter().map(|(key, v)| Some((key.get_ref().to_string(), json(flag, v, problems)?)));
            return members.collect::<Option<_>>().map(Json::Object);
        }
    };
    if read.is_none() {
        let problem = format!("holds for {flag:?} {}, which JSON can't say", described(value.get_ref()));
        let remedy = "write true or false, a text, a number, a list or a table".to_owned();
        problems.push(Problem { span: value.span(), problem, remedy });
    }
    read
}

fn shown(json: &Json) -> Value {
    match json {
        // TOML has no null, so none was read.
        Json::Null => Value::text(""),
        Json::Bool(is) => Value::Flag(*is),
        Json::Number(n) => {
            let whole = n.as_u64().map(Value::Whole).or_else(|| n.as_i64().map(Value::Signed));
            whole.unwrap_or_else(|| Value::Number(n.as_f64().unwrap_or_default()))
        }
        Json::String(text) => Value::text(text),
        Json::Array(items) => Value::List(items.iter().map(shown).collect()),
        Json::Object(members) => Value::Map(members.iter().map(|(k, v)| (k.clone(), shown(v))).collect()),
    }
}

const KEY_PREFIX_REMEDY: &str = "write letters, digits, - and _, at most 64 of them";
const FIELD_NAME_REMEDY: &str = "write one such as \"x-last-updated\"";
const MEMBER_REMEDY: &str = "write the name of a member of the object, such as \"last_updated\"";
const FILE_REMEDY: &str = "write the path of a file, such as \"sorry.html\"";

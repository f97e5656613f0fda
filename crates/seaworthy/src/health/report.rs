//! What a check found, and what is told of all of them.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::rfc3339;

/// The media type of [`Report::to_json`].
pub const MEDIA_TYPE: &str = "application/health+json";

/// How well something is. The worse is the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Status {
    /// Well.
    Pass,
    /// Well enough to go on, and worth a look.
    Warn,
    /// Not well.
    Fail,
}

impl Status {
    /// The word in a report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What a check saw.
#[derive(Clone, PartialEq, Debug)]
pub enum Observed {
    /// A number.
    Number(f64),
    /// Anything else.
    Text(String),
}

impl From<f64> for Observed {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Observed {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i32> for Observed {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<&str> for Observed {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Observed {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// What a check found.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// How well it is.
    pub status: Status,
    /// What was seen, and its unit, which may be empty.
    pub observed: Option<(Observed, Cow<'static, str>)>,
    /// What there is to say about it.
    pub output: Option<String>,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub const fn pass() -> Self {
        Self { status: Status::Pass, observed: None, output: None }
    }

    /// It is worth a look, because of `output`.
    #[must_use]
    pub fn warn(output: impl Into<String>) -> Self {
        Self { status: Status::Warn, observed: None, output: Some(output.into()) }
    }

    /// It is not well, because of `output`.
    #[must_use]
    pub fn fail(output: impl Into<String>) -> Self {
        Self { status: Status::Fail, observed: None, output: Some(output.into()) }
    }

    /// Adds what was seen, and its unit.
    #[must_use]
    pub fn observed(mut self, value: impl Into<Observed>, unit: impl Into<Cow<'static, str>>) -> Self {
        self.observed = Some((value.into(), unit.into()));
        self
    }
}

/// One check in a [`Report`].
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct CheckReport {
    /// `component:measurement`.
    pub name: String,
    /// Which of several of this name.
    pub id: Option<String>,
    /// What kind of thing it looks at.
    pub component: Option<String>,
    /// Whether the process should get no requests while it fails.
    pub critical: bool,
    /// What it found last.
    pub finding: Finding,
    /// When it did, since 1970; none if it never ran.
    pub time: Option<Duration>,
}

/// The answer to a question about health.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The whole: the worst of all checks, of which those that are not critical can do no more than warn.
    pub status: Status,
    /// What the program is.
    pub service: String,
    /// Its version.
    pub release: String,
    /// What there is to say beside the checks.
    pub output: Option<String>,
    /// The checks that were asked, by name and id.
    pub checks: Vec<CheckReport>,
}

impl Report {
    /// The HTTP status to answer with: 503 for a failure, else 200.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self.status {
            Status::Pass | Status::Warn => 200,
            Status::Fail => 503,
        }
    }

    /// The report as [`application/health+json`](MEDIA_TYPE), with one member that the draft does not know: `critical`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut whole = Map::new();
        put(&mut whole, "status", self.status.name());
        put(&mut whole, "description", self.service.as_str());
        put(&mut whole, "releaseId", self.release.as_str());
        if let Some(output) = &self.output {
            put(&mut whole, "output", output.as_str());
        }
        let mut checks = Map::new();
        for check in &self.checks {
            let of_this_name = checks.entry(check.name.clone()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(of_this_name) = of_this_name {
                of_this_name.push(check.to_json());
            }
        }
        if !checks.is_empty() {
            put(&mut whole, "checks", checks);
        }
        Value::Object(whole).to_string()
    }
}

impl CheckReport {
    fn to_json(&self) -> Value {
        let mut check = Map::new();
        for (name, text) in [("componentId", &self.id), ("componentType", &self.component)] {
            if let Some(text) = text {
                put(&mut check, name, text.as_str());
            }
        }
        if let Some((value, unit)) = &self.finding.observed {
            match value {
                Observed::Number(number) => put(&mut check, "observedValue", *number),
                Observed::Text(text) => put(&mut check, "observedValue", text.as_str()),
            }
            if !unit.is_empty() {
                put(&mut check, "observedUnit", &**unit);
            }
        }
        put(&mut check, "status", self.finding.status.name());
        put(&mut check, "critical", self.critical);
        if let Some(time) = self.time {
            put(&mut check, "time", rfc3339(time));
        }
        if let Some(output) = &self.finding.output {
            put(&mut check, "output", output.as_str());
        }
        Value::Object(check)
    }
}

fn put(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    map.insert(name.to_owned(), value.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_as_the_draft_has_it() {
        let check = |id: &str, finding| CheckReport {
            name: "db:responseTime".into(),
            id: Some(id.into()),
            component: Some("datastore".into()),
            critical: true,
            finding,
            time: Some(Duration::from_millis(951_782_400_123)),
        };
        let report = Report {
            status: Status::Fail,
            service: "shop".into(),
            release: "1.4.2".into(),
            output: None,
            checks: vec![
                check("a", Finding::pass().observed(2.5, "ms")),
                check("b", Finding::fail("it says \"no\"").observed("none", "")),
            ],
        };
        let told: Value = serde_json::from_str(&report.to_json()).unwrap();
        let time = "2000-02-29T00:00:00.123Z";
        let expected = serde_json::json!({
            "status": "fail", "description": "shop", "releaseId": "1.4.2",
            "checks": { "db:responseTime": [
                { "componentId": "a", "componentType": "datastore", "observedValue": 2.5, "observedUnit": "ms",
                  "status": "pass", "critical": true, "time": time },
                { "componentId": "b", "componentType": "datastore", "observedValue": "none",
                  "status": "fail", "critical": true, "time": time, "output": "it says \"no\"" },
            ] },
        });
        assert_eq!(told, expected);
        assert_eq!(report.http_status(), 503);
    }

    #[test]
    fn a_number_that_json_has_not_is_null() {
        let finding = Finding::pass().observed(f64::NAN, "percent");
        let check =
            CheckReport { name: "x".into(), id: None, component: None, critical: false, finding, time: None };
        assert_eq!(check.to_json()["observedValue"], Value::Null);
    }

    #[test]
    fn the_worse_is_the_greater() {
        assert!(Status::Pass < Status::Warn && Status::Warn < Status::Fail);
    }
}

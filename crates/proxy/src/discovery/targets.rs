//! Reads a list of targets in the convention that Prometheus calls `file_sd`:
//!
//! ```json
//! [{ "targets": ["10.0.0.1:8080", "10.0.0.2:8080"], "labels": { "zone": "a", "region": "eu", "weight": "2" } }]
//! ```
//!
//! Every JSON text is a YAML text as well (YAML 1.2, section 1.3), so one parser reads both, and it knows of each value where it
//! stands. Aliases are refused: a few of them make gigabytes of a few hundred bytes.

use http::uri::Authority;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};
use seaworthy_config::Labels;

use super::Target;

/// What is wrong with a list of targets.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
    /// What is wrong, and what to do.
    pub(super) text: String,
}

/// The targets of a list, in its order; `defaults` are the labels of those that have none.
///
/// # Errors
/// The first thing that is wrong, and where.
pub(super) fn parse(text: &str, defaults: &Labels) -> Result<Vec<Target>, Fault> {
    let root = Reader { parser: Parser::new_from_str(text.trim_start_matches('\u{feff}')) }.document()?;
    let mut targets = Vec::new();
    for group in root.list("the file", "write a list: [{\"targets\": [\"host:port\"]}]")? {
        read_group(group, defaults, &mut targets)?;
    }
    Ok(targets)
}

fn read_group(group: &Node, defaults: &Labels, into: &mut Vec<Target>) -> Result<(), Fault> {
    let mut targets = None;
    let mut labels = None;
    for (key, value) in group.table("a group", "write {\"targets\": [\"host:port\"], \"labels\": {}}")? {
        let place = match key.text() {
            Some("targets") => &mut targets,
            Some("labels") => &mut labels,
            _ => return Err(key.fault(format!("{} is neither targets nor labels; remove it", key.shown()))),
        };
        if place.replace(value).is_some() {
            return Err(key.fault(format!("{} is there twice; keep one", key.shown())));
        }
    }
    let labels = labels.map_or_else(|| Ok(defaults.clone()), |node| read_labels(node, defaults))?;
    let targets =
        targets.ok_or_else(|| group.fault("a group has no targets; add \"targets\": [\"host:port\"]"))?;
    for node in targets.list("targets", "write a list: [\"host:port\"]")? {
        let (host, port) = read_target(node)?;
        into.push(Target { host, port, labels: labels.clone() });
    }
    Ok(())
}

fn read_target(node: &Node) -> Result<(String, u16), Fault> {
    let remedy = "write \"host:port\", \"10.0.0.1:8080\" or \"[::1]:8080\"";
    let wrong = |what: &str| node.fault(format!("the target {} {what}; {remedy}", node.shown()));
    let text = node.text().ok_or_else(|| wrong("is no text"))?;
    if text.contains("://") {
        return Err(wrong("has a scheme"));
    }
    let authority: Authority = text.parse().map_err(|_| wrong("is no address"))?;
    if text.contains('@') {
        return Err(wrong("has a user name"));
    }
    let port = authority.port_u16().filter(|port| *port > 0).ok_or_else(|| wrong("has no port"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    if host.is_empty() { Err(wrong("has no host")) } else { Ok((host, port)) }
}

/// Labels that mean nothing here are for others who read the same file.
fn read_labels(node: &Node, defaults: &Labels) -> Result<Labels, Fault> {
    let mut labels = defaults.clone();
    if node.is_null() {
        return Ok(labels);
    }
    for (key, value) in
        node.table("labels", "write {\"zone\": \"a\", \"region\": \"eu\", \"weight\": \"2\"}")?
    {
        let text = || {
            let wrong = || value.fault(format!("the label {} is no text; write \"..\"", key.shown()));
            value.text().ok_or_else(wrong)
        };
        match key.text() {
            Some("zone") => labels.zone = text()?.to_owned(),
            Some("region") => labels.region = text()?.to_owned(),
            Some("weight") => {
                let weight = text()?.parse().ok().filter(|weight| (1..=Labels::MOST_WEIGHT).contains(weight));
                let range = format!("write a whole number from 1 to {}", Labels::MOST_WEIGHT);
                labels.weight = weight
                    .ok_or_else(|| value.fault(format!("the weight {} is none; {range}", value.shown())))?;
            }
            _ => {}
        }
    }
    Ok(labels)
}

/// A value and where it stands.
struct Node {
    line: usize,
    column: usize,
    kind: Kind,
}

enum Kind {
    Text { text: String, is_plain: bool },
    List(Vec<Node>),
    Table(Vec<(Node, Node)>),
}

impl Node {
    fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    /// `labels:` with nothing behind it, or JSON's null.
    fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Text { text, is_plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    fn list(&self, what: &str, remedy: &str) -> Result<&[Self], Fault> {
        match &self.kind {
            Kind::List(nodes) => Ok(nodes),
            _ => Err(self.fault(format!("{what} is no list but {}; {remedy}", self.shown()))),
        }
    }

    fn table(&self, what: &str, remedy: &str) -> Result<&[(Self, Self)], Fault> {
        match &self.kind {
            Kind::Table(pairs) => Ok(pairs),
            _ => Err(self.fault(format!("{what} is no table but {}; {remedy}", self.shown()))),
        }
    }

    fn fault(&self, text: impl Into<String>) -> Fault {
        Fault { line: self.line, column: self.column, text: text.into() }
    }

    /// The value as a message shows it.
    fn shown(&self) -> String {
        match &self.kind {
            Kind::Text { text, .. } if text.chars().count() > MOST_SHOWN => {
                format!("{:?}..", text.chars().take(MOST_SHOWN).collect::<String>())
            }
            Kind::Text { text, .. } => format!("{text:?}"),
            Kind::List(_) => "a list".to_owned(),
            Kind::Table(_) => "a table".to_owned(),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Reader<'a> {
    /// The one value of the text.
    fn document(mut self) -> Result<Node, Fault> {
        let mut found = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, span) => {
                    return found
                        .ok_or_else(|| fault(span, "there is nothing in it; write [] for no targets"));
                }
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
                (_, span) if found.is_some() => {
                    return Err(fault(span, "there is a second document; keep one list"));
                }
                (event, span) => found = Some(self.node(event, span, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Fault> {
        if depth > MOST_DEPTH {
            return Err(fault(span, "this is nested too deeply; targets need three levels"));
        }
        let kind = match event {
            Event::Scalar(text, style, ..) => {
                Kind::Text { text: text.into_owned(), is_plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => {
                let mut nodes = Vec::new();
                while let Some(node) = self.until(&Event::SequenceEnd, depth)? {
                    nodes.push(node);
                }
                Kind::List(nodes)
            }
            Event::MappingStart(..) => {
                let mut pairs = Vec::new();
                while let Some(key) = self.until(&Event::MappingEnd, depth)? {
                    let (event, span) = self.next()?;
                    pairs.push((key, self.node(event, span, depth + 1)?));
                }
                Kind::Table(pairs)
            }
            Event::Alias(_) => return Err(fault(span, "this is an alias; write out what it stands for")),
            _ => return Err(fault(span, "a value is missing here; write one")),
        };
        Ok(Node { line: span.start.line(), column: span.start.col() + 1, kind })
    }

    /// The next value, or `None` at the `end` of what holds it.
    fn until(&mut self, end: &Event<'a>, depth: usize) -> Result<Option<Node>, Fault> {
        let (event, span) = self.next()?;
        if event == *end { Ok(None) } else { self.node(event, span, depth + 1).map(Some) }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        let next = self.parser.next_event().transpose().map_err(|error| unreadable(&error))?;
        Ok(next.unwrap_or((Event::StreamEnd, Span::default())))
    }
}

fn fault(span: Span, text: impl Into<String>) -> Fault {
    Fault { line: span.start.line(), column: span.start.col() + 1, text: text.into() }
}

fn unreadable(error: &ScanError) -> Fault {
    let at = error.marker();
    let text = format!("this is neither JSON nor YAML: {}; mend it here or just before", error.info());
    Fault { line: at.line(), column: at.col() + 1, text }
}

/// Targets need three levels; the rest is for labels of others.
const MOST_DEPTH: usize = 16;

/// So many characters of a value stand in a message.
const MOST_SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use seaworthy_core::{Rng, Seeded};

    use super::*;

    fn defaults() -> Labels {
        Labels::new("z".to_owned(), String::new(), 1)
    }

    /// host, port, zone, region, weight
    fn read(text: &str) -> Vec<(String, u16, String, String, u32)> {
        let targets = parse(text, &defaults()).unwrap();
        let short = |Target { host, port, labels }| (host, port, labels.zone, labels.region, labels.weight);
        targets.into_iter().map(short).collect()
    }

    fn one(
        host: &str,
        port: u16,
        zone: &str,
        region: &str,
        weight: u32,
    ) -> (String, u16, String, String, u32) {
        (host.to_owned(), port, zone.to_owned(), region.to_owned(), weight)
    }

    #[test]
    fn json_is_read_with_spaces_and_with_tabs() {
        let text = r#"[
          {"targets": ["10.0.0.1:8080", "Shop.Internal:80"], "labels": {"zone": "a", "region": "eu", "weight": "2", "env": ["x"]}},
          {"targets": ["[::1]:9000"]}
        ]"#;
        let expected = [
            one("10.0.0.1", 8080, "a", "eu", 2),
            one("shop.internal", 80, "a", "eu", 2),
            one("::1", 9000, "z", "", 1),
        ];
        assert_eq!(read(text), expected);
        assert_eq!(read(&text.replace("  ", "\t")), expected);
        assert_eq!(read(&text.replace('\n', "\r\n")), expected);
        let tight: String = text.split_whitespace().collect();
        assert_eq!(read(&tight), expected, "JSON needs no space after a colon");
        assert_eq!(read(&format!("\u{feff}{text}")), expected);
        assert_eq!(read("[]"), []);
        assert_eq!(read(r#"[{"targets": [], "labels": null}]"#), []);
    }

    #[test]
    fn yaml_is_read() {
        let text = "- targets:\n  - 10.0.0.1:8080\n  - '[::1]:80'\n  labels:\n    weight: 3 # more\n- targets: [a:1]\n";
        let expected =
            [one("10.0.0.1", 8080, "z", "", 3), one("::1", 80, "z", "", 3), one("a", 1, "z", "", 1)];
        assert_eq!(read(text), expected);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_a_remedy() {
        let cases = [
            ("", "1:1: there is nothing in it; write [] for no targets"),
            (
                "nonsense",
                "1:1: the file is no list but \"nonsense\"; write a list: [{\"targets\": [\"host:port\"]}]",
            ),
            (
                "[{\"targets\":\n [\"shop\"]}]",
                "2:3: the target \"shop\" has no port; write \"host:port\", \"10.0.0.1:8080\" or \"[::1]:8080\"",
            ),
            (
                "[{\"targets\": [\"http://shop:1\"]}]",
                "1:15: the target \"http://shop:1\" has a scheme; write \"host:port\", \"10.0.0.1:8080\" or \"[::1]:8080\"",
            ),
            ("[{\"labels\": {}}]", "1:2: a group has no targets; add \"targets\": [\"host:port\"]"),
            ("[{\"target\": []}]", "1:3: \"target\" is neither targets nor labels; remove it"),
            ("[{\"targets\": [], \"targets\": []}]", "1:18: \"targets\" is there twice; keep one"),
            (
                "[{\"targets\": \"a:1\"}]",
                "1:14: targets is no list but \"a:1\"; write a list: [\"host:port\"]",
            ),
            (
                "[{\"targets\": [[\"a:1\"]]}]",
                "1:15: the target a list is no text; write \"host:port\", \"10.0.0.1:8080\" or \"[::1]:8080\"",
            ),
            (
                "[{\"targets\": [], \"labels\": {\"weight\": \"0\"}}]",
                "1:39: the weight \"0\" is none; write a whole number from 1 to 1000",
            ),
            (
                "[{\"targets\": [], \"labels\": {\"zone\": []}}]",
                "1:37: the label \"zone\" is no text; write \"..\"",
            ),
            ("- targets: &a [a:1]\n- targets: *a\n", "2:12: this is an alias; write out what it stands for"),
            ("[]\n---\n[]", "3:1: there is a second document; keep one list"),
        ];
        for (text, expected) in cases {
            let Fault { line, column, text: found } = parse(text, &defaults()).unwrap_err();
            assert_eq!(format!("{line}:{column}: {found}"), expected, "{text}");
        }
    }

    /// A file that was not written to its end.
    #[test]
    fn json_that_breaks_off_is_a_fault_wherever_it_does() {
        let text = r#"[{"targets": ["10.0.0.1:80", "10.0.0.2:80"], "labels": {"zone": "a"}}]"#;
        for end in 0..text.len() {
            assert!(parse(&text[..end], &defaults()).is_err(), "{}", &text[..end]);
        }
    }

    #[test]
    fn whatever_a_file_holds_it_is_read_or_its_fault_is_told() {
        let texts = [
            "[{\"targets\": [\"10.0.0.1:80\"], \"labels\": {\"zone\": \"a\", \"weight\": \"2\"}}]",
            "# list\n- targets:\n  - 'a:1'\n  - \"b\\u0041:2\"\n  labels: {zone: >-\n    x, region: |\n    y}\n---\n",
        ];
        let pieces = [
            "[", "]", "{", "}", ":", ",", "\"", "'", "\n", "\t", "- ", "? ", "&a ", "*a", "!!int ", "|", ">",
            "%", "\0", "\u{feff}", "é", "---",
        ];
        let mut rng = Seeded::new(7);
        let mut below = |most: usize| (rng.next_u64() % most as u64) as usize;
        for round in 0..4000 {
            let mut characters: Vec<char> = texts[round % texts.len()].chars().collect();
            for _ in 0..=below(6) {
                let at = below(characters.len());
                let end = (at + below(3)).min(characters.len());
                characters.splice(at..end, pieces[below(pieces.len())].chars());
            }
            let text: String = characters.into_iter().collect();
            if let Err(fault) = parse(&text, &defaults()) {
                assert!(
                    fault.line >= 1 && fault.column >= 1 && fault.text.contains(';'),
                    "{fault:?} in {text:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_nested_without_end_is_a_fault() {
        for text in ["[".repeat(100_000), "{\"a\":".repeat(1000), "- ".repeat(1000)] {
            assert!(parse(&text, &defaults()).is_err());
        }
    }
}

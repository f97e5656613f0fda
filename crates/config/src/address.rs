//! Where calls go, and which calls a route takes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// One address of an upstream.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    /// A host name in lower case, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl Endpoint {
    /// `host:port`, with brackets around an IPv6 address: what goes into a `Host` header or a resolver.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Whether whoever connects to it reaches what listens at `listen`, as far as its name alone can tell.
    pub(crate) fn is_at(&self, listen: &SocketAddr) -> bool {
        let same = |ip: IpAddr| ip == listen.ip() || (listen.ip().is_unspecified() && ip.is_loopback());
        let is_host = match self.host.parse() {
            Ok(ip) => same(ip),
            Err(_) => self.host == "localhost" && (listen.ip().is_loopback() || listen.ip().is_unspecified()),
        };
        is_host && self.port == listen.port()
    }

    /// Reads `http://host` or `http://host:port`; the error is the problem and the remedy.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        let problem = |what: &str| format!("is {text:?}, {what}");
        let Some(rest) = text.strip_prefix("http://") else {
            if text.starts_with("https://") {
                return Err((problem("and TLS to an upstream is not supported"), TLS_REMEDY));
            }
            return Err((problem("which does not begin with \"http://\""), URL_REMEDY));
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err((
                problem("which has a path"),
                "the path of each request is kept; write the host and port alone",
            ));
        }
        if authority.contains('@') {
            return Err((
                problem("which has a user name"),
                "credentials don't belong into a URL; leave them out",
            ));
        }
        let (host, port) =
            split_port(authority).ok_or_else(|| (problem("which has no valid port"), URL_REMEDY))?;
        let host = host.to_ascii_lowercase();
        if is_host(&host) {
            Ok(Self { host, port: port.unwrap_or(80) })
        } else {
            Err((problem("which has no valid host"), URL_REMEDY))
        }
    }
}

/// The endpoint as a URL.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

/// The host of `authority` without brackets, and its port if it names one; `None` if the port is not one.
pub(crate) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => match rest {
            "" => (host, None),
            _ => (host, Some(rest.strip_prefix(':')?)),
        },
        _ => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    match port {
        None => Some((host, None)),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0).map(|port| (host, Some(port)))
        }
        Some(_) => None,
    }
}

pub(crate) fn is_host(host: &str) -> bool {
    host.parse::<Ipv6Addr>().is_ok() || is_name(host)
}

/// A host name in lower case: labels of letters, digits, `-` and (as container networks use them) `_`, joined by dots (RFC 1123,
/// section 2.1; at most 253 characters, 63 a label). IPv4 addresses have the same form.
pub(crate) fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// The hosts that a route takes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Host {
    /// Every host, and requests that name none.
    #[default]
    Any,
    /// This one, in lower case.
    Exact(String),
    /// Every host below this one, in lower case: `*.example.com` holds `example.com`.
    Below(String),
}

impl Host {
    pub(crate) fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        let host = text.to_ascii_lowercase();
        let (pattern, name) = match host.strip_prefix("*.") {
            _ if host == "*" => return Ok(Self::Any),
            Some(below) => (Self::Below(below.to_owned()), below),
            None => (Self::Exact(host.clone()), host.as_str()),
        };
        if is_host(name) {
            return Ok(pattern);
        }
        let has_port = host.rsplit_once(':').is_some_and(|(name, _)| is_name(name));
        let what = if has_port { "which has a port" } else { "which is not a host" };
        Err((
            format!("is {text:?}, {what}"),
            "write a host such as \"shop.example.com\", \"*.example.com\", or \"*\" for any",
        ))
    }

    /// Whether `host`, as a request names it (with or without a port, in any case), is among these.
    #[must_use]
    pub fn matches(&self, host: Option<&str>) -> bool {
        let Some((host, _)) = host.and_then(split_port) else {
            return matches!(self, Self::Any);
        };
        // The dot at the end of a fully qualified name is not part of what people call the host.
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Any => true,
            Self::Exact(name) => host.eq_ignore_ascii_case(name),
            Self::Below(name) => {
                let split =
                    host.len().checked_sub(name.len()).filter(|at| *at > 1 && host.is_char_boundary(*at));
                split.is_some_and(|at| host[..at].ends_with('.') && host[at..].eq_ignore_ascii_case(name))
            }
        }
    }

    /// The more specific of two patterns has the greater key: exact before below before any, longer before shorter.
    pub(crate) fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Below(name) => (1, name.len()),
            Self::Exact(_) => (2, 0),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// The paths that a route takes: this one and everything below it, on the boundaries of segments, so that `/shop` takes `/shop`
/// and `/shop/cart` and not `/shopping`. Begins with a slash and, but for `/` itself, does not end with one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix(String);

impl Default for Prefix {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl Prefix {
    pub(crate) fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        let problem = |what: &str| format!("is {text:?}, {what}");
        if !text.starts_with('/') {
            return Err((problem("which does not begin with a slash"), PREFIX_REMEDY));
        }
        if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '*' | '\\'))
        {
            return Err((problem(&format!("which holds {odd:?}")), PREFIX_REMEDY));
        }
        if text.contains("//") || text.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err((problem("which has an empty or a dot segment"), PREFIX_REMEDY));
        }
        let trimmed = text.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(text);
        Ok(Self(trimmed.to_owned()))
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path`, without its query, is at or below the prefix. It is compared as it stands: percent-encoding is left alone.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.0 == "/"
            || path.strip_prefix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) const URL_REMEDY: &str = "write a URL such as \"http://127.0.0.1:3000\"";
const TLS_REMEDY: &str = "use \"http://\", over a network that you trust";
const PREFIX_REMEDY: &str =
    "write the beginning of a path, such as \"/api\" or \"/shop/cart\", without wildcards or a query";

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Result<String, String> {
        Endpoint::parse(text).map(|endpoint| endpoint.to_string()).map_err(|(problem, _)| problem)
    }

    #[test]
    fn endpoints_are_read() {
        assert_eq!(endpoint("http://LOCALHOST:3000/").unwrap(), "http://localhost:3000");
        assert_eq!(endpoint("http://10.0.0.1").unwrap(), "http://10.0.0.1:80");
        assert_eq!(endpoint("http://[::1]:3000").unwrap(), "http://[::1]:3000");
        assert_eq!(endpoint("http://[::1]").unwrap(), "http://[::1]:80");
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        let urls = [
            "localhost:3000",
            "https://localhost",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:65536",
            "http://a:+1",
            "http://::1",
            "http://[::1",
            "http://[::1]80",
            "http://a b",
            "http://-a",
            "http://a..b",
            "http://a/path",
            "http://user@a",
        ];
        let problems: Vec<String> = urls.iter().map(|url| endpoint(url).unwrap_err()).collect();
        insta::assert_snapshot!(problems.join("\n"));
    }

    #[test]
    fn a_host_below_another_is_not_the_other() {
        let below = Host::parse("*.Example.com").unwrap();
        assert!(below.matches(Some("a.example.com")) && below.matches(Some("B.A.EXAMPLE.COM.:8080")));
        assert!(!below.matches(Some("example.com")) && !below.matches(Some(".example.com")));
        assert!(
            !below.matches(Some("badexample.com")) && !below.matches(Some("é.com")) && !below.matches(None)
        );
    }

    #[test]
    fn a_host_is_matched_without_its_port() {
        let host = Host::parse("::1").unwrap();
        assert!(host.matches(Some("[::1]:80")) && host.matches(Some("[::1]")));
        let host = Host::parse("example.com").unwrap();
        assert!(host.matches(Some("Example.com:80")) && !host.matches(Some("example.com:x")));
        assert!(Host::Any.matches(None) && Host::Any.matches(Some("anything")));
        for bad in ["", "example.com:80", "*", "*.", "a.*.b", "*a.com", "http://a"] {
            assert_eq!(Host::parse(bad).is_ok(), bad == "*", "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_ends_on_the_boundary_of_a_segment() {
        let prefix = Prefix::parse("/shop/").unwrap();
        assert!(prefix.matches("/shop") && prefix.matches("/shop/") && prefix.matches("/shop/cart"));
        assert!(!prefix.matches("/shopping") && !prefix.matches("/") && !prefix.matches("/a/shop"));
        assert!(Prefix::default().matches("/anything") && Prefix::default().matches("*"));
        for bad in ["", "shop", "/a b", "/a?b", "/a*", "/a//b", "/a/../b", "/é"] {
            assert!(Prefix::parse(bad).is_err(), "{bad:?}");
        }
    }
}

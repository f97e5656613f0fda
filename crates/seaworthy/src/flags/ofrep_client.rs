//! A flag service that speaks OFREP over HTTP.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use open_feature::async_trait;
use seaworthy_core::Pushback;
use serde_json::Value;

use super::answer::{Answer, Trouble};
use super::ofrep::{self, Asked};
use super::source::{All, Source};
use crate::classify;

/// A [`Source`] over plain HTTP/1.1: for a flag service in the same pod or network, or behind a proxy that adds TLS. Needs
/// tokio's runtime.
#[derive(Clone, Debug)]
pub struct OfrepClient {
    client: Client<HttpConnector, Full<Bytes>>,
    /// Without a slash at its end.
    base: String,
    headers: HeaderMap,
}

impl OfrepClient {
    /// A client of the service at `base`, the URL up to where the protocol's own path begins: `http://localhost:8016`.
    ///
    /// # Errors
    /// If that is not an `http` URL.
    pub fn new(base: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl { url: base.to_owned() };
        let uri: Uri = base.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() || uri.query().is_some() {
            return Err(bad());
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build_http();
        Ok(Self { client, base: base.trim_end_matches('/').to_owned(), headers: HeaderMap::new() })
    }

    /// Sends `name` with every request, such as `authorization` or `x-api-key`.
    #[must_use]
    pub fn header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        self.headers.insert(name, value);
        self
    }

    async fn ask(&self, asked: &Asked, context: &Value, tag: Option<&str>) -> Result<Said, Trouble> {
        let body = Bytes::from(ofrep::request(context).to_string());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        let uri = format!("{}{}", self.base, asked.path());
        *request.uri_mut() = uri.parse().map_err(|_| Trouble::Unreachable(format!("{uri} is too long")))?;
        request.headers_mut().extend(self.headers.clone());
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(tag).ok()) {
            request.headers_mut().insert(header::IF_NONE_MATCH, tag);
        }
        let response =
            self.client.request(request).await.map_err(|error| Trouble::Unreachable(chain(&error)))?;
        let (head, body) = response.into_parts();
        let tag = head.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let retry_after = retry_after(&head.headers);
        let body = Limited::new(body, MOST_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Trouble::Malformed(format!("it has more than {MOST_BYTES} bytes"))
            } else {
                Trouble::Unreachable(chain(&*error))
            }
        })?;
        Ok(Said { status: head.status.as_u16(), tag, retry_after, body: body.to_bytes() })
    }
}

#[async_trait]
impl Source for OfrepClient {
    async fn evaluate(&self, flag: &str, context: &Value) -> Result<Answer, Trouble> {
        let said = self.ask(&Asked::One(flag.to_owned()), context, None).await?;
        ofrep::read_one(flag, said.status, &said.body).map_err(|trouble| said.told_when(trouble))
    }

    async fn evaluate_all(&self, context: &Value, tag: Option<&str>) -> Result<All, Trouble> {
        let said = self.ask(&Asked::All, context, tag).await?;
        if said.status == 304 && tag.is_some() {
            return Ok(All::Unchanged);
        }
        let flags = ofrep::read_all(said.status, &said.body).map_err(|trouble| said.told_when(trouble))?;
        Ok(All::Changed { tag: said.tag, flags })
    }
}

/// What the service said.
struct Said {
    status: u16,
    tag: Option<String>,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Said {
    /// Adds when to come back.
    fn told_when(&self, trouble: Trouble) -> Trouble {
        match trouble {
            Trouble::RateLimited { .. } => Trouble::RateLimited { retry_after: self.retry_after },
            other => other,
        }
    }
}

/// `Retry-After` as HTTP has it. The protocol's own example, an RFC 3339 date, is none of that and is not known here.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    match classify::retry_after(headers) {
        Pushback::After(wait) => Some(wait),
        Pushback::Unsaid | Pushback::Never => None,
    }
}

/// What an error says, with what caused it.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The URL of a flag service that is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadUrl {
    url: String,
}

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not the URL of a flag service, such as http://localhost:8016", self.url)
    }
}

impl StdError for BadUrl {}

/// As long as many servers keep an idle connection.
const IDLE: Duration = Duration::from_secs(60);
/// An answer about some thousand flags fits into a megabyte.
const MOST_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_http_url_will_do() {
        assert!(OfrepClient::new("http://localhost:8016").is_ok());
        assert_eq!(OfrepClient::new("http://flags/base/").unwrap().base, "http://flags/base");
        for bad in ["", "localhost", "/flags", "https://flags", "ftp://flags", "http://flags?a=b", "http://"]
        {
            assert!(OfrepClient::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_is_read_when_to_come_back() {
        let after = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]))
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Thu, 01 Jan 1970 00:00:07 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
        assert_eq!(after("-1"), None);
    }
}

//! The requests that the attempts of one call send.

use std::rc::Rc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use seaworthy_config::Protocol;
use seaworthy_core::{Criticality, Instant, nanos};

use crate::head::Asked;
use crate::names;
use crate::tape::Upload;
use crate::worker::Worker;

/// What every attempt of a call sends.
///
/// The first attempt takes the headers as they came. A copy for others is kept as a plain list, which costs a fraction of
/// a map's copy, in a buffer that the worker's calls hand on to each other.
pub(crate) struct Outgoing {
    home: Rc<Worker>,
    protocol: Protocol,
    method: Method,
    target: PathAndQuery,
    host: HeaderValue,
    headers: Option<HeaderMap>,
    kept: Vec<(HeaderName, HeaderValue)>,
    grpc: bool,
}

impl Outgoing {
    pub(crate) fn new(home: &Rc<Worker>, upstream: usize, asked: Asked, criticality: Criticality) -> Self {
        let protocol = home.site.config.upstreams[upstream].protocol;
        let Asked { method, target, host, mut headers, grpc, .. } = asked;
        match protocol {
            Protocol::Http1 => drop(headers.insert(header::HOST, host.clone())),
            Protocol::Http2 => drop(headers.remove(header::HOST)),
        }
        headers.insert(names::CRITICALITY, HeaderValue::from_static(criticality.name()));
        let mut kept = home.spare_lists.borrow_mut().pop().unwrap_or_default();
        kept.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self { home: home.clone(), protocol, method, target, host, headers: Some(headers), kept, grpc }
    }

    /// The same request to another upstream, with `path` in place of its own if there is one; its query stays.
    pub(crate) fn again(&self, upstream: usize, path: Option<&str>) -> Self {
        let target = path.and_then(|path| {
            let query = self.target.query().map(|query| format!("?{query}")).unwrap_or_default();
            format!("{path}{query}").parse().ok()
        });
        let mut headers = self.copy();
        let protocol = self.home.site.config.upstreams[upstream].protocol;
        match protocol {
            Protocol::Http1 => drop(headers.insert(header::HOST, self.host.clone())),
            Protocol::Http2 => drop(headers.remove(header::HOST)),
        }
        Self {
            home: self.home.clone(),
            protocol,
            method: self.method.clone(),
            target: target.unwrap_or_else(|| self.target.clone()),
            host: self.host.clone(),
            kept: headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            headers: Some(headers),
            grpc: self.grpc,
        }
    }

    /// The request of attempt `attempt`, which is given up at `due`.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        attempt: u8,
        due: Option<Instant>,
        upload: Upload,
    ) -> Request<Upload> {
        let mut headers = self.headers.take().unwrap_or_else(|| self.copy());
        if attempt > 1 {
            headers.insert(names::ATTEMPT, HeaderValue::from(u16::from(attempt)));
        }
        if let Some(due) = due {
            // At least one millisecond: 0 would mean that there is no time at all.
            let left = (nanos(due.since(now)) / 1_000_000).clamp(1, 99_999_999);
            let mut ids = self.home.ids.borrow_mut();
            headers.insert(names::TIMEOUT_MS, ids.value(format_args!("{left}")));
            if self.grpc {
                headers.insert(names::GRPC_TIMEOUT, ids.value(format_args!("{left}m")));
            }
        }
        let mut request = Request::new(upload);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri();
        *request.headers_mut() = headers;
        if self.protocol == Protocol::Http2 {
            *request.version_mut() = Version::HTTP_2;
        }
        request
    }

    fn copy(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.kept.len() + 4);
        for (name, value) in &self.kept {
            headers.append(name, value.clone());
        }
        headers
    }

    /// The path alone for HTTP/1.1; the whole for HTTP/2, which makes its pseudo-headers of it.
    fn uri(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(self.target.clone());
        if self.protocol == Protocol::Http2 {
            parts.scheme = Some(Scheme::HTTP);
            // The host was checked to be one; HTTP/1.0 may have left it out.
            parts.authority = http::uri::Authority::try_from(self.host.as_bytes()).ok();
            if parts.authority.is_none() {
                parts.authority = Some(http::uri::Authority::from_static("localhost"));
            }
        }
        Uri::from_parts(parts).unwrap_or_default()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        let mut lists = self.home.spare_lists.borrow_mut();
        if lists.len() < MOST_LISTS {
            lists.push(kept);
        }
    }
}

/// Buffers that a worker keeps: as many as it has calls in flight at most times.
const MOST_LISTS: usize = 64;

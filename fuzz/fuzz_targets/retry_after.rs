//! What an upstream says about coming back: `Retry-After`, and gRPC's push-back.

#![no_main]

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use libfuzzer_sys::fuzz_target;
use seaworthy::classify::{Grpc, Http, retry_after};
use seaworthy::{Failure, Outcome, Pushback};

fuzz_target!(|data: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let number = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    http(&value, number);
    grpc(&value, number);
});

fn http(value: &HeaderValue, seconds: Option<u64>) {
    let mut headers = HeaderMap::new();
    headers.insert(header::RETRY_AFTER, value.clone());
    let asked = retry_after(&headers);
    assert_ne!(asked, Pushback::Never, "it says when, not whether");
    if let Some(seconds) = seconds {
        assert_eq!(asked, Pushback::After(Duration::from_secs(seconds)));
    }
    assert!(
        matches!(Http::response(StatusCode::SERVICE_UNAVAILABLE, &headers), Outcome::Overloaded(_)),
        "that it is there is enough"
    );
}

fn grpc(value: &HeaderValue, millis: Option<u64>) {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from_static("14"));
    headers.insert("grpc-retry-pushback-ms", value.clone());
    let asked = millis.map_or(Pushback::Never, |ms| Pushback::After(Duration::from_millis(ms)));
    assert_eq!(Grpc::response(StatusCode::OK, &headers), Outcome::Failure(Failure::Error, asked));
    headers.insert("grpc-status", value.clone());
    let _any_is_fine = Grpc::response(StatusCode::OK, &headers);
}

//! The cookie that tells whose call it is.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seaworthy_proxy::fuzzing::cookie(data));

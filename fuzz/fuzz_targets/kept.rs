//! What decides on kept answers: `Cache-Control`, `Vary`, `Age`, dates, `Range`, conditions and cookies.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seaworthy_proxy::fuzzing::kept(data));

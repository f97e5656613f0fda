//! The head of a request: criticality, deadlines, host, framing, what concerns one hop.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seaworthy_proxy::fuzzing::head(data));

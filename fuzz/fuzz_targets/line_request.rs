//! The lines of the JSON protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aetherium_fuzz::line_request(data));

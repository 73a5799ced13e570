//! The messages of the RPC.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aetherium_fuzz::rpc_message(data));

//! Bytes as messages of the plugin.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| anabranch_postgres::fuzzing::pgoutput(data));

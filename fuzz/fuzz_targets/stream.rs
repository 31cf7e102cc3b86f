//! Bytes as what a server sends, in any order.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| anabranch_postgres::fuzzing::stream(data));

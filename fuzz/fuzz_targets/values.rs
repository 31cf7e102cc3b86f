//! Bytes as values of every type.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| anabranch_postgres::fuzzing::values(data));

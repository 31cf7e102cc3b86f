//! The memory and the time that a source takes, each measured in a process of its own.
//!
//! ```text
//! case ── Job ──▶ reader (this program again, as a child) ── a line a batch ──▶ case
//! ```
//!
//! A case runs at a tenth of its size; at its full size with `ANABRANCH_TEST_SIZE=full`
//! (`make test-large`). Arguments choose cases by parts of their names.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, own its tasks, and say what it measured"
)]

#[path = "footprint/large.rs"]
mod large;
#[path = "footprint/reader.rs"]
mod reader;
#[path = "footprint/scene.rs"]
mod scene;
#[allow(dead_code, unused_imports, reason = "the other test program uses the rest")]
mod support;
#[path = "footprint/tables.rs"]
mod tables;
#[path = "footprint/tiny.rs"]
mod tiny;

use std::env;

use futures::FutureExt as _;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == reader::READ) {
        return reader::read();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let wanted = |name: &str| {
        let mut words = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        words.peek().is_none() || words.any(|word| name.contains(word.as_str()))
    };
    for (name, case) in [
        ("large_deletes", large::deletes().boxed_local()),
        ("large_inserts", large::inserts().boxed_local()),
        ("many_tables", tables::many().boxed_local()),
        ("tiny_tables", tiny::copied_and_read_again().boxed_local()),
    ] {
        if wanted(name) {
            println!("case {name}");
            runtime.block_on(case);
            println!("case {name} ... ok");
        }
    }
}

//! What the fuzzer runs, and what the tests run over the inputs that it found.
//!
//! ```text
//! fuzz/ ── bytes ──▶ pgoutput · values · stream ──▶ a panic is a finding
//! ```
//!
//! Compiled for tests, and with `--cfg fuzzing`, which `cargo fuzz` sets.

mod script;
mod stream;
mod values;

use bytes::Bytes;

use crate::pgoutput::{InStream, Message, Tuple, decode, in_stream};

pub use stream::stream;
#[cfg(test)]
pub(crate) use values::codecs;
pub use values::values;

/// Any bytes are a message, within a block of a streamed transaction or outside of one, or an error.
pub fn pgoutput(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    walk(&bytes);
    if let Ok(InStream::Change { tag, body, .. }) = in_stream(&bytes) {
        walk(&[&[tag], &body[..]].concat().into());
    }
}

/// A message that was decoded can be walked to its end, and ends where its bytes do.
fn walk(bytes: &Bytes) {
    let Ok(message) = decode(bytes) else { return };
    for tuple in tuples(&message) {
        assert_eq!(tuple.values().count(), tuple.len(), "a tuple ends early");
        assert!(tuple.value(tuple.len()).is_none(), "a tuple goes on");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(decode(&longer.into()).is_err(), "a message goes on");
}

fn tuples(message: &Message) -> Vec<&Tuple> {
    match message {
        Message::Insert { new, .. } => vec![new],
        Message::Update { old, new, .. } => {
            old.iter().map(|old| old.tuple()).chain([new]).collect()
        }
        Message::Delete { old, .. } => vec![old.tuple()],
        Message::Begin(_)
        | Message::Commit(_)
        | Message::Origin
        | Message::Relation(_)
        | Message::Type
        | Message::Truncate { .. }
        | Message::Logical(_)
        | Message::StreamStart(_)
        | Message::StreamStop
        | Message::StreamCommit(_)
        | Message::StreamAbort(_)
        | Message::TwoPhase(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut inputs = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            run(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 10, "the corpus of {target} is gone");
    }

    #[test]
    fn the_corpus_of_pgoutput_holds() {
        replay("pgoutput", pgoutput);
    }

    #[test]
    fn the_corpus_of_values_holds() {
        replay("values", values);
    }

    #[test]
    fn the_corpus_of_stream_holds() {
        replay("stream", stream);
    }
}

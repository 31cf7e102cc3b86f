//! Bodies and replies.

use anabranch_core::{Epoch, Lsn};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn version(part: u8) -> Version {
    Version::new(Epoch(255), Lsn(Lsn::VERSION_LIMIT.0 - 1), part)
}

fn text(chunk: &Chunk) -> String {
    String::from_utf8(chunk.body().to_vec()).unwrap()
}

fn upsert(writer: &mut ChunkWriter, id: &str, document: &str) {
    let written = writer.index(id, version(255), |out| {
        out.extend_from_slice(document.as_bytes());
        Ok::<_, ()>(())
    });
    written.unwrap();
}

#[test]
fn bodies_are_what_the_server_wants() {
    let mut writer = ChunkWriter::default();
    upsert(&mut writer, "7", r#"{"id":7}"#);
    writer.delete("a\"b", version(254), Guard::NotOlder);
    writer.delete("c", version(254), Guard::Newer);
    writer.replace("d", "1", Some((3, 2)), "{}");
    writer.replace("e", "1", None, "{}");
    assert!(
        writer
            .index("f", version(0), |out| {
                out.push(b'{');
                Err(())
            })
            .is_err()
    );
    let chunk = writer.take();
    assert_eq!(
        text(&chunk),
        concat!(
            r#"{"index":{"_id":"7","version":9223372036854775807,"version_type":"external_gte"}}"#,
            "\n",
            r#"{"id":7}"#,
            "\n",
            r#"{"delete":{"_id":"a\"b","version":9223372036854775806,"version_type":"external_gte"}}"#,
            "\n",
            r#"{"delete":{"_id":"c","version":9223372036854775806,"version_type":"external"}}"#,
            "\n",
            r#"{"index":{"_id":"d","routing":"1","if_seq_no":3,"if_primary_term":2}}"#,
            "\n",
            "{}\n",
            r#"{"create":{"_id":"e","routing":"1"}}"#,
            "\n",
            "{}\n",
        )
    );
    assert_eq!(chunk.len(), 5, "a document that could not be written is left out");
    assert_eq!(chunk.id(1), "a\"b");
    assert!(writer.take().is_empty());
}

fn reply(items: &[Value]) -> Vec<u8> {
    json!({"items": items}).to_string().into_bytes()
}

fn failed(status: u16, kind: &str) -> Value {
    json!({"index": {"status": status, "error": {"type": kind, "reason": "why"}}})
}

#[test]
fn each_item_is_judged_by_its_own_status() {
    let items = [
        json!({"index": {"status": 201, "_seq_no": 5, "_primary_term": 2}}),
        failed(409, "version_conflict_engine_exception"),
        json!({"delete": {"status": 404}}),
        failed(429, "es_rejected_execution_exception"),
        failed(503, "unavailable_shards_exception"),
        failed(400, "document_parsing_exception"),
        failed(404, "index_not_found_exception"),
    ];
    let verdict = verdict(&reply(&items), items.len()).unwrap();
    assert_eq!(verdict.again, [3, 4]);
    assert_eq!(verdict.written, [Some((5, 2)), None, None, None, None, None, None]);
    let refusal = verdict.refused.unwrap();
    assert_eq!((refusal.place, refusal.status, refusal.reason.as_str()), (5, 400, "why"));
    assert!(refusal.is_of_the_document());
}

#[test]
fn a_missing_index_is_not_the_documents_fault() {
    for (status, kind) in [(404, "index_not_found_exception"), (400, "index_closed_exception")] {
        let verdict = verdict(&reply(&[failed(status, kind)]), 1).unwrap();
        assert!(!verdict.refused.unwrap().is_of_the_document(), "{kind}");
    }
}

#[test]
fn a_reply_to_something_else_is_refused() {
    let one = reply(&[failed(409, "")]);
    assert!(verdict(&one, 1).is_ok());
    assert!(verdict(&one, 2).is_err() && verdict(&one, 0).is_err());
    assert!(verdict(b"{\"took\":3}", 0).is_err());
    assert!(verdict(b"<html>", 1).is_err());
    assert!(verdict(b"{\"items\":[{\"index\":{}}]}", 1).is_err(), "no status, no success");
}

proptest! {
    /// Ids come out as they went in, whole or cut, and lines stay lines.
    #[test]
    fn items_survive_being_cut_out(ids in prop::collection::vec(".{0,20}", 1..20), seed: u64) {
        let mut writer = ChunkWriter::default();
        for (place, id) in ids.iter().enumerate() {
            if place % 3 == 0 {
                writer.delete(id, version(1), Guard::Newer);
            } else {
                upsert(&mut writer, id, &json!({"text": id}).to_string());
            }
        }
        let chunk = writer.take();
        let kept: Vec<usize> = (0..ids.len()).filter(|place| seed >> place & 1 == 1).collect();
        let part = chunk.only(kept.iter().copied());
        prop_assert_eq!(part.len(), kept.len());
        for (at, place) in kept.iter().enumerate() {
            prop_assert_eq!(&part.id(at), &ids[*place]);
        }
        for line in text(&part).lines() {
            prop_assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
        let (first, second) = chunk.halves();
        prop_assert_eq!(text(&first) + &text(&second), text(&chunk));
    }

    /// Any bytes are either refused or judged for every item.
    #[test]
    fn replies_are_read_without_panics(
        statuses in prop::collection::vec(any::<u16>(), 0..20),
        cut in 0_usize..400,
    ) {
        let items: Vec<_> = statuses.iter().map(|status| failed(*status, "t")).collect();
        let whole = reply(&items);
        let judged = verdict(&whole, items.len()).unwrap();
        let done = |status: &u16| (200..300).contains(status) || *status == 409;
        let open = statuses.iter().filter(|status| !done(status)).count();
        prop_assert!(judged.again.len() <= open);
        prop_assert_eq!(open > 0, judged.refused.is_some() || !judged.again.is_empty());
        if cut < whole.len() {
            prop_assert!(verdict(&whole[..cut], items.len()).is_err(), "a cut reply");
        }
    }
}

//! Any bytes are a value of any type, or an error; and what is written is what Avro reads.

use std::cell::RefCell;

use anabranch_core::avro::schema::envelope_schema;
use anabranch_core::{Column, ColumnType, Table};
use apache_avro::{Schema, from_avro_datum};

use crate::pgoutput::Value;
use crate::value::{Codec, Context, Part, Policy, Spelling, ValuePolicies, write_optional};

/// A type, and its schema in the log.
struct Case {
    codec: Codec,
    schema: Schema,
}

thread_local! {
    static CASES: RefCell<Vec<Case>> =
        RefCell::new(codecs().into_iter().filter_map(case).collect());
}

/// The first byte chooses the type, the second the format and the policies; the rest is the value.
pub fn values(data: &[u8]) {
    let [choice, how, value @ ..] = data else { return };
    let value = if how & 1 == 0 { Value::Text(value) } else { Value::Binary(value) };
    let mut context = Context::new(policies(how >> 1));
    CASES.with_borrow(|cases| {
        let Some(case) = cases.get(usize::from(*choice) % cases.len()) else { return };
        let mut out = Vec::new();
        if write_optional(&mut context, &mut out, &case.codec, value).is_ok() {
            let mut rest = &out[..];
            let read = from_avro_datum(&case.schema, &mut rest, None);
            assert!(read.is_ok(), "{:?}: Avro cannot read {out:?}: {read:?}", case.codec);
            assert!(rest.is_empty(), "{:?}: more than Avro reads: {out:?}", case.codec);
        }
    });
}

fn policies(choice: u8) -> ValuePolicies {
    let all = |policy| ValuePolicies {
        numbers: policy,
        timestamps: policy,
        infinities: policy,
        midnight: policy,
        arrays: policy,
        composites: policy,
        encoding: policy,
    };
    match choice % 4 {
        0 => ValuePolicies::default(),
        1 => all(Policy::Clamp),
        2 => all(Policy::Null),
        _ => all(Policy::Reject),
    }
}

/// Every kind of type.
pub(crate) fn codecs() -> Vec<Codec> {
    let price = || Codec::Decimal { precision: 5, scale: 2 };
    let array = |element, delimiter| Codec::Array { element: Box::new(element), delimiter };
    let part = |name: &str, type_oid, codec| Part { name: name.to_owned(), type_oid, codec };
    let composite = || {
        let inner = Codec::Composite(vec![part("x", 16, Codec::Bool)]);
        Codec::Composite(vec![
            part("a", 23, Codec::Int32),
            part("b", 25, Codec::Text),
            part("c", 1007, array(Codec::Int32, b',')),
            part("d", 99_999, inner),
        ])
    };
    let spelt = [
        Spelling::Numeric,
        Spelling::Unsigned64,
        Spelling::Lsn,
        Spelling::TimeTz,
        Spelling::Inet,
        Spelling::MacAddr,
        Spelling::Bits,
    ];
    let plain = [
        Codec::Bool,
        Codec::Int16,
        Codec::Int32,
        Codec::Int64,
        Codec::Float32,
        Codec::Float64,
        Codec::Decimal { precision: 38, scale: 10 },
        price(),
        Codec::Money,
        Codec::Unsigned,
        Codec::Text,
        Codec::Json,
        Codec::Jsonb,
        Codec::Bytes,
        Codec::Geometry,
        Codec::Uuid,
        Codec::Date,
        Codec::Time,
        Codec::Timestamp,
        Codec::TimestampTz,
        Codec::Interval,
        Codec::Hstore,
        Codec::Vector,
        Codec::Opaque,
        Codec::Range(Box::new(Codec::Int32)),
        Codec::Range(Box::new(Codec::TimestampTz)),
        Codec::Multirange(Box::new(Codec::Date)),
        Codec::Multirange(Box::new(Codec::Spelt(Spelling::Numeric))),
        array(Codec::Int32, b','),
        array(Codec::Text, b','),
        array(Codec::Text, b';'),
        array(price(), b','),
        array(Codec::Range(Box::new(Codec::Int64)), b','),
        array(composite(), b','),
        composite(),
    ];
    // Behind the others, whose places the corpus knows.
    let more = [
        Codec::Decimal { precision: 38, scale: 38 },
        Codec::Decimal { precision: 76, scale: 3 },
        Codec::Multirange(Box::new(Codec::Text)),
    ];
    plain.into_iter().chain(spelt.map(Codec::Spelt)).chain(more).collect()
}

fn case(codec: Codec) -> Option<Case> {
    let column = |attnum, name: &str, kind| Column {
        attnum,
        name: name.to_owned(),
        source_type: String::new(),
        kind,
    };
    let table = Table {
        oid: 1,
        version: 1,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        columns: vec![column(1, "id", ColumnType::Int32), column(2, "v", codec.kind())],
        key: vec![0],
    };
    let envelope: serde_json::Value =
        serde_json::from_str(&envelope_schema(&table, "fuzz.v")).ok()?;
    let schema = Schema::parse(envelope.pointer("/fields/0/type/1/fields/1/type")?).ok()?;
    Some(Case { codec, schema })
}

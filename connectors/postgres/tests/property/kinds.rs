//! The types: how values of them are made, and how one is known again.
//!
//! ```text
//! literal ── the server ──┬── replication ──▶ Avro ──▶ what `apache-avro` reads ─┐
//!                         └── SQL over its own functions ──▶ JSON ──── the same? ┘
//! ```

use apache_avro::types::Value;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value as Json;

/// What a value travels as.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Bool,
    /// Whole numbers of any size.
    Integer,
    Float32,
    Float64,
    Decimal {
        scale: u8,
    },
    Text,
    Bytes,
    Date,
    Time,
    Timestamp,
    Array(Box<Self>),
    Range(Box<Self>),
    Composite(Vec<(&'static str, Self)>),
    Interval,
    Hstore,
}

/// A type of the server.
#[derive(Clone)]
pub(super) struct Type {
    pub(super) sql: String,
    pub(super) kind: Kind,
    /// An expression of the type.
    pub(super) literal: BoxedStrategy<String>,
}

/// What [`types`] needs in a database.
pub(super) const PREPARATION: &str = "
    create extension hstore;
    create type mood as enum ('sad', 'ok', 'très \"bon\"');
    create domain price as numeric(8,2);
    create type pair as (a int, \"b c\" text, d numeric(8,2), e timestamp)";

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn of(sql: &str, kind: Kind, literal: impl Strategy<Value = String> + 'static) -> Type {
    let cast = format!("::{sql}");
    let literal = literal.prop_map(move |text| format!("({text}){cast}")).boxed();
    Type { sql: sql.to_owned(), kind, literal }
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}|[ \\\\\"{},()\n\t'=>a-c]{0,12}|NULL|null".prop_map(|text| quoted(&text))
}

/// A time of day.
fn time() -> impl Strategy<Value = String> {
    (0..24, 0..60, 0..60, 0..1_000_000).prop_map(|(h, m, s, us)| format!("'{h}:{m}:{s}.{us:06}'"))
}

fn timestamp(days: impl Strategy<Value = i32> + 'static) -> impl Strategy<Value = String> {
    (days, time()).prop_map(|(days, time)| format!("date '1970-01-01' + {days} + time {time}"))
}

fn decimal(digits: u32, scale: u32) -> impl Strategy<Value = String> {
    let limit = 10_i128.pow(digits) - 1;
    prop_oneof![-limit..=limit, -99_i128..100]
        .prop_map(move |unscaled| format!("'{unscaled}'::numeric / 1e{scale}::numeric(60)"))
}

fn float32() -> impl Strategy<Value = String> {
    let special = prop_oneof![Just("NaN"), Just("Infinity"), Just("-Infinity"), Just("-0")];
    let any = any::<u32>().prop_map(|bits| format!("'{:e}'", f32::from_bits(bits)));
    prop_oneof![special.prop_map(quoted), any.prop_map(|text| text.replace("inf", "Infinity"))]
}

fn float64() -> impl Strategy<Value = String> {
    let special = prop_oneof![Just("NaN"), Just("Infinity"), Just("-Infinity"), Just("-0")];
    let any = any::<u64>().prop_map(|bits| format!("'{:e}'", f64::from_bits(bits)));
    prop_oneof![special.prop_map(quoted), any.prop_map(|text| text.replace("inf", "Infinity"))]
}

fn range(function: &'static str, bound: fn(i32) -> String) -> impl Strategy<Value = String> {
    let ends = (-1_000..1_000, 0..1_000, 0..8, prop_oneof![Just("[]"), Just("[)"), Just("(]")]);
    ends.prop_map(move |(from, length, open, inclusive)| {
        let lower = if open == 1 { "null".to_owned() } else { bound(from) };
        let upper = if open == 2 { "null".to_owned() } else { bound(from + length) };
        format!("{function}({lower}, {upper}, '{inclusive}')")
    })
}

/// An array of values of a type, nulls among them.
fn array(element: &Type) -> Type {
    let value = prop::option::weighted(0.8, element.literal.clone());
    let values = vec(value.prop_map(|value| value.unwrap_or_else(|| "null".to_owned())), 0..5);
    let literal = values.prop_map(|values| format!("array[{}]", values.join(", ")));
    of(&format!("{}[]", element.sql), Kind::Array(Box::new(element.kind.clone())), literal)
}

fn scalars() -> Vec<Type> {
    let uuid = any::<u128>().prop_map(|bits| format!("'{bits:032x}'"));
    let json = "[a-z]{0,3}".prop_map(|key| format!("'{{\"{key}\": [1.10, null, \"é\"] }}'"));
    let days = || prop_oneof![-2_440_000..106_700_000, -40_000..40_000];
    let bytes = vec(any::<u8>(), 0..20)
        .prop_map(|bytes| bytes.iter().fold("'\\x".to_owned(), |s, b| format!("{s}{b:02x}")) + "'");
    let mood = prop_oneof![Just("'sad'"), Just("'ok'"), Just("'très \"bon\"'")];
    let host = any::<u32>().prop_map(std::net::Ipv4Addr::from);
    let inet = (host, 0..=32).prop_map(|(host, bits)| format!("'{host}/{bits}'"));
    vec![
        of("bool", Kind::Bool, any::<bool>().prop_map(|value| value.to_string())),
        of("int2", Kind::Integer, any::<i16>().prop_map(|value| format!("'{value}'"))),
        of("int4", Kind::Integer, any::<i32>().prop_map(|value| format!("'{value}'"))),
        of("int8", Kind::Integer, any::<i64>().prop_map(|value| format!("'{value}'"))),
        of("float4", Kind::Float32, float32()),
        of("float8", Kind::Float64, float64()),
        of("numeric(38,10)", Kind::Decimal { scale: 10 }, decimal(38, 10)),
        of("numeric(5,2)", Kind::Decimal { scale: 2 }, decimal(5, 2)),
        of("price", Kind::Decimal { scale: 2 }, decimal(8, 2)),
        of("numeric", Kind::Text, prop_oneof![decimal(30, 25), Just("'NaN'".to_owned())]),
        of("text", Kind::Text, text()),
        of("varchar(20)", Kind::Text, text()),
        of("char(14)", Kind::Text, text()),
        of("bytea", Kind::Bytes, bytes),
        of("uuid", Kind::Text, uuid),
        of("date", Kind::Date, days().prop_map(|days| format!("date '1970-01-01' + {days}"))),
        of("time", Kind::Time, time()),
        of("timestamp", Kind::Timestamp, timestamp(days())),
        of("timestamptz", Kind::Timestamp, {
            timestamp(days()).prop_map(|text| format!("({text}) at time zone 'UTC'"))
        }),
        of("json", Kind::Text, json.clone()),
        of("jsonb", Kind::Text, json),
        of("mood", Kind::Text, mood.prop_map(str::to_owned)),
        of("inet", Kind::Text, inet),
        of("bit(9)", Kind::Text, "B'[01]{9}'".prop_map(|text| text)),
        of("timetz", Kind::Text, time().prop_map(|text| format!("{text}::time"))),
        of("interval", Kind::Interval, {
            (any::<i16>(), any::<i16>(), any::<i32>()).prop_map(|(months, days, micros)| {
                format!("interval '{months} mons {days} days' + interval '{micros} us'")
            })
        }),
        of("hstore", Kind::Hstore, {
            let pair = (text(), prop::option::of(text()));
            vec(pair, 0..4).prop_map(|pairs| {
                let pair = |(key, value): (String, Option<String>)| {
                    format!("hstore({key}, {})", value.unwrap_or_else(|| "null".to_owned()))
                };
                let pairs = pairs.into_iter().map(pair).collect::<Vec<_>>();
                [vec!["''::hstore".to_owned()], pairs].concat().join(" || ")
            })
        }),
    ]
}

/// Every type that is tried.
pub(super) fn types() -> Vec<Type> {
    let mut types = scalars();
    let arrays: Vec<Type> = types.iter().map(array).collect();
    let integer = || Box::new(Kind::Integer);
    let pair = {
        let literals = (any::<i32>(), text(), decimal(8, 2), timestamp((-9_000..9_000).boxed()));
        literals.prop_map(|(a, b, d, e)| format!("row({a}, {b}, {d}, {e})"))
    };
    let fields = vec![
        ("a", Kind::Integer),
        ("\"b c\"", Kind::Text),
        ("d", Kind::Decimal { scale: 2 }),
        ("e", Kind::Timestamp),
    ];
    let pair = of("pair", Kind::Composite(fields), pair);
    let number = |number: i32| number.to_string();
    let moment = |number| format!("timestamp '2000-01-01' + {number} * interval '1 s'");
    types.extend([
        of("int4range", Kind::Range(integer()), range("int4range", number)),
        of("int8range", Kind::Range(integer()), range("int8range", number)),
        of("numrange", Kind::Range(Box::new(Kind::Text)), range("numrange", number)),
        of("tsrange", Kind::Range(Box::new(Kind::Timestamp)), range("tsrange", moment)),
        array(&pair),
        pair,
    ]);
    types.extend(arrays);
    types
}

/// SQL for what `value` is, as JSON that [`is_same`] understands.
pub(super) fn expected(kind: &Kind, value: &str) -> String {
    let json = match kind {
        Kind::Bool => format!("to_json({value})"),
        Kind::Integer | Kind::Float32 | Kind::Float64 => format!("to_json(({value})::text)"),
        Kind::Decimal { scale } => format!("to_json((({value}) * 1e{scale}::numeric)::numeric(60)::text)"),
        // Not `::text`, which takes the padding of char(n) off.
        Kind::Text => format!("to_json(format('%s', {value}))"),
        Kind::Bytes => format!("to_json(encode({value}, 'hex'))"),
        Kind::Date => format!("to_json((({value}) - date '1970-01-01')::text)"),
        Kind::Time | Kind::Timestamp => {
            format!("to_json((extract(epoch from {value}) * 1000000)::bigint::text)")
        }
        // Not unnest(), which takes composites apart.
        Kind::Array(element) => format!(
            "coalesce((select json_agg({} order by i) from generate_subscripts({value}, 1) i), '[]')",
            expected(element, &format!("(({value})[i])"))
        ),
        Kind::Range(bound) => format!(
            "json_build_array({}, {}, lower_inc({value}), upper_inc({value}), isempty({value}))",
            expected(bound, &format!("lower({value})")),
            expected(bound, &format!("upper({value})"))
        ),
        Kind::Composite(fields) => {
            let field = |(name, kind): &(&str, Kind)| expected(kind, &format!("(({value}).{name})"));
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("json_build_array({})", fields.join(", "))
        }
        Kind::Interval => format!(
            "json_build_array(to_json((extract(year from {value}) * 12 + extract(month from {value}))::int::text),
             to_json(extract(day from {value})::int::text),
             to_json(((extract(hour from {value}) * 3600 + extract(minute from {value}) * 60
                       + extract(second from {value})) * 1000000)::bigint::text))"
        ),
        Kind::Hstore => format!("hstore_to_json({value})"),
    };
    format!("case when ({value}) is not distinct from null then null else {json} end")
}

/// Whether a value that Avro has is the one that the server has.
pub(super) fn is_same(kind: &Kind, expected: &Json, actual: &Value) -> bool {
    let actual = if let Value::Union(_, inner) = actual { inner.as_ref() } else { actual };
    if *actual == Value::Null || expected.is_null() {
        return *actual == Value::Null && expected.is_null();
    }
    let text = expected.as_str().unwrap_or_default();
    let all = |kinds: &mut dyn Iterator<Item = &Kind>, values: &[&Value]| {
        let expected = expected.as_array().unwrap();
        expected.len() == values.len()
            && expected.iter().zip(kinds).zip(values).all(|((e, k), v)| is_same(k, e, v))
    };
    match (kind, actual) {
        (Kind::Bool, Value::Boolean(value)) => expected.as_bool() == Some(*value),
        (Kind::Float32, Value::Float(value)) => {
            let expected: f32 = text.parse().unwrap();
            expected.to_bits() == value.to_bits() || expected.is_nan() && value.is_nan()
        }
        (Kind::Float64, Value::Double(value)) => {
            let expected: f64 = text.parse().unwrap();
            expected.to_bits() == value.to_bits() || expected.is_nan() && value.is_nan()
        }
        (Kind::Integer, Value::Int(value)) | (Kind::Date, Value::Date(value)) => {
            text == value.to_string()
        }
        (Kind::Integer, Value::Long(value))
        | (Kind::Time, Value::TimeMicros(value))
        | (Kind::Timestamp, Value::TimestampMicros(value) | Value::LocalTimestampMicros(value)) => {
            text == value.to_string()
        }
        (Kind::Decimal { .. }, Value::Decimal(value)) => {
            let bytes = Vec::<u8>::try_from(value).unwrap();
            let sign = if bytes.first().is_some_and(|byte| *byte > 127) { 0xFF } else { 0 };
            let mut wide = [sign; 16];
            wide[16 - bytes.len()..].copy_from_slice(&bytes);
            text == i128::from_be_bytes(wide).to_string()
        }
        (Kind::Text, Value::String(value)) => text == value,
        (Kind::Text, Value::Uuid(value)) => text == value.to_string(),
        (Kind::Bytes, Value::Bytes(value)) => {
            text == value.iter().fold(String::new(), |s, byte| format!("{s}{byte:02x}"))
        }
        (Kind::Array(element), Value::Array(values)) => {
            all(&mut std::iter::repeat(element.as_ref()), &values.iter().collect::<Vec<_>>())
        }
        (Kind::Composite(fields), Value::Record(values)) => {
            let values: Vec<&Value> = values.iter().map(|(_, value)| value).collect();
            all(&mut fields.iter().map(|(_, kind)| kind), &values)
        }
        (Kind::Range(bound), Value::Record(values)) => {
            let values: Vec<&Value> = values.iter().map(|(_, value)| value).collect();
            let flag = &Kind::Bool;
            all(&mut [bound.as_ref(), bound, flag, flag, flag].into_iter(), &values)
        }
        (Kind::Interval, Value::Record(values)) => {
            let values: Vec<&Value> = values.iter().map(|(_, value)| value).collect();
            all(&mut std::iter::repeat(&Kind::Integer), &values)
        }
        (Kind::Hstore, Value::Map(values)) => {
            let expected = expected.as_object().unwrap();
            expected.len() == values.len()
                && expected.iter().all(|(key, value)| {
                    values.get(key).is_some_and(|held| is_same(&Kind::Text, value, held))
                })
        }
        _ => false,
    }
}

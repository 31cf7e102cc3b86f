//! Known values in both formats, what does not fit, and noise.

use anabranch_core::avro::write;

use super::*;
use crate::fuzzing::codecs;

fn encoded(policies: ValuePolicies, codec: &Codec, text: &[u8]) -> Result<Vec<u8>, ValueError> {
    let mut out = Vec::new();
    let mut context = Context::new(policies);
    write_required(&mut context, &mut out, codec, Value::Text(text)).map(|()| out)
}

fn text(codec: &Codec, text: &str) -> Result<Vec<u8>, ValueError> {
    encoded(ValuePolicies::default(), codec, text.as_bytes())
}

fn binary(codec: &Codec, bytes: &[u8]) -> Result<Vec<u8>, ValueError> {
    let mut out = Vec::new();
    let mut context = Context::new(ValuePolicies::default());
    write_required(&mut context, &mut out, codec, Value::Binary(bytes)).map(|()| out)
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn array(element: Codec) -> Codec {
    Codec::Array { element: Box::new(element), delimiter: b',' }
}

/// A binary numeric: its groups, weight, sign and scale.
fn numeric(groups: &[i16], weight: i16, sign: u16, scale: u16) -> Vec<u8> {
    let count = u16::try_from(groups.len()).unwrap();
    let mut bytes = [count.to_be_bytes(), weight.to_be_bytes()].concat();
    bytes.extend([sign.to_be_bytes(), scale.to_be_bytes()].concat());
    bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
    bytes
}

#[test]
fn plain_values_are_written() {
    let cases = [
        (Codec::Bool, "t", written(|out| write::boolean(out, true))),
        (Codec::Int16, "-32768", written(|out| write::int(out, -32768))),
        (Codec::Int64, "-9223372036854775808", written(|out| write::long(out, i64::MIN))),
        (Codec::Unsigned, "4294967295", written(|out| write::long(out, 4_294_967_295))),
        (Codec::Float32, "0.1", written(|out| write::float(out, 0.1))),
        (Codec::Float64, "-0", written(|out| write::double(out, -0.0))),
        (Codec::Float64, "5e-324", written(|out| write::double(out, 5e-324))),
        (Codec::Float64, "1e+308", written(|out| write::double(out, 1e308))),
        (Codec::Float64, "-Infinity", written(|out| write::double(out, f64::NEG_INFINITY))),
        (Codec::Float64, "NaN", written(|out| write::double(out, f64::NAN))),
        (Codec::Text, "é☃🦀", written(|out| write::string(out, "é☃🦀"))),
        (
            Codec::Json,
            "{\"a\":1, \"a\":2 }",
            written(|out| write::string(out, "{\"a\":1, \"a\":2 }")),
        ),
        (Codec::Bytes, "\\x00ff27", written(|out| write::bytes(out, &[0, 255, 0x27]))),
        (Codec::Bytes, "\\x", written(|out| write::bytes(out, &[]))),
        (
            Codec::Money,
            "-$92,233,720,368,547,758.08",
            written(|out| write::decimal(out, i64::MIN.into())),
        ),
        (array(Codec::Int32), "{7,NULL}", vec![4, 2, 14, 0, 0]),
        (array(Codec::Int32), "{}", vec![0]),
        (Codec::Vector, "[1,-2.5]", {
            let floats = [1.0_f32, -2.5].map(f32::to_le_bytes);
            [&[4, 2][..], &floats[0], &[2], &floats[1], &[0]].concat()
        }),
        (Codec::Range(Box::new(Codec::Int32)), "[1,)", vec![2, 2, 0, 1, 0, 0]),
        (Codec::Multirange(Box::new(Codec::Int32)), "{[1,)}", vec![2, 2, 2, 2, 0, 1, 0, 0, 0]),
        (Codec::Hstore, "\"k\"=>NULL", vec![2, 2, b'k', 0, 0]),
    ];
    for (codec, value, expected) in cases {
        assert_eq!(text(&codec, value).unwrap(), expected, "{codec:?} {value}");
    }
}

#[test]
fn numbers_are_the_same_in_both_formats() {
    let decimal = |precision, scale| Codec::Decimal { precision, scale };
    let spelt = Codec::Spelt(Spelling::Numeric);
    let negative = 0x4000;
    let cases = [
        (decimal(10, 2), "1.10", numeric(&[1, 1000], 0, 0, 2)),
        (decimal(10, 2), "-1.50", numeric(&[1, 5000], 0, negative, 2)),
        (decimal(10, 2), "0.00", numeric(&[], 0, 0, 2)),
        (decimal(5, 5), "0.00012", numeric(&[1, 2000], -1, 0, 5)),
        (decimal(10, 0), "120000", numeric(&[12], 1, 0, 0)),
        (decimal(60, 4), "100000000000000000000000000000000000000000.5", {
            numeric(&[10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5000], 10, 0, 1)
        }),
        (spelt.clone(), "0.00000000000000000001", numeric(&[1], -5, 0, 20)),
        (spelt.clone(), "1.10", numeric(&[1, 1000], 0, 0, 2)),
        (spelt.clone(), "-12345678.9", numeric(&[1234, 5678, 9000], 1, negative, 1)),
        (spelt.clone(), "100000000", numeric(&[1], 2, 0, 0)),
        (spelt.clone(), "0", numeric(&[], 0, 0, 0)),
        (spelt.clone(), "0.000", numeric(&[], 0, 0, 3)),
        (spelt.clone(), "NaN", numeric(&[], 0, 0xC000, 0)),
        (spelt, "-Infinity", numeric(&[], 0, 0xF000, 0)),
    ];
    for (codec, value, bytes) in cases {
        assert_eq!(text(&codec, value).unwrap(), binary(&codec, &bytes).unwrap(), "{value}");
    }
    for (codec, value, bytes) in [
        (decimal(10, 2), "1.234", numeric(&[1, 2340], 0, 0, 3)),
        (decimal(3, 0), "1000", numeric(&[1000], 0, 0, 0)),
        (decimal(18, 0), &*"9".repeat(19), numeric(&[999, 9999, 9999, 9999, 9999], 4, 0, 0)),
        (decimal(18, 2), &*"9".repeat(20), numeric(&[9999; 5], 4, 0, 0)),
        (decimal(38, 0), &*"9".repeat(39), numeric(&[9999; 10], 9, 0, 0)),
        (decimal(76, 0), &*"9".repeat(77), numeric(&[9999; 20], 19, 0, 0)),
        (decimal(10, 2), "NaN", numeric(&[], 0, 0xC000, 0)),
        (decimal(10, 2), "Infinity", numeric(&[], 0, 0xD000, 0)),
    ] {
        let misfit = Err(ValueError::Misfit(Misfit::Number));
        assert_eq!(text(&codec, value), misfit, "{value}");
        assert_eq!(binary(&codec, &bytes), misfit, "{value}");
    }
    assert_eq!(text(&decimal(38, 0), &"9".repeat(38)).unwrap().len(), 17);
    assert_eq!(text(&decimal(18, 0), &"9".repeat(18)).unwrap().len(), 9);
}

/// A value, its class, and what it is clamped to; null where there is nothing near.
type MisfitCase = (Codec, &'static [u8], Misfit, Option<Vec<u8>>);

#[test]
fn what_does_not_fit_goes_by_its_policy() {
    let all = |policy| ValuePolicies {
        numbers: policy,
        timestamps: policy,
        infinities: policy,
        midnight: policy,
        arrays: policy,
        composites: policy,
        encoding: policy,
    };
    let decimal = Codec::Decimal { precision: 4, scale: 2 };
    let pair = Codec::Composite(vec![
        Part { name: "a".into(), type_oid: 23, codec: Codec::Int32 },
        Part { name: "b".into(), type_oid: 23, codec: Codec::Int32 },
    ]);
    let long = |value| written(|out| write::long(out, value));
    let cases: [MisfitCase; 9] = [
        (decimal.clone(), b"NaN", Misfit::Number, None),
        (decimal, b"-Infinity", Misfit::Number, Some(written(|out| write::decimal(out, -9999)))),
        (
            Codec::Timestamp,
            b"294276-12-31 23:59:59.999999",
            Misfit::Timestamp,
            Some(long(i64::MAX - 1)),
        ),
        (Codec::TimestampTz, b"-infinity", Misfit::Infinity, Some(long(i64::MIN + 1))),
        (Codec::Date, b"infinity", Misfit::Infinity, Some(long(i64::from(i32::MAX) - 1))),
        (Codec::Time, b"24:00:00", Misfit::Midnight, Some(long(86_399_999_999))),
        (
            array(Codec::Int32),
            b"{{1,2},{3,NULL}}",
            Misfit::Array,
            Some(vec![8, 2, 2, 2, 4, 2, 6, 0, 0]),
        ),
        (pair, b"(1,2,3)", Misfit::Composite, None),
        (
            Codec::Text,
            b"a\xFF",
            Misfit::Encoding,
            Some(written(|out| write::string(out, "a\u{FFFD}"))),
        ),
    ];
    for (codec, value, misfit, near) in cases {
        let write = |policy, in_key| {
            let mut context = Context::new(all(policy));
            context.enter(in_key);
            let mut out = Vec::new();
            let result = write_optional(&mut context, &mut out, &codec, Value::Text(value));
            result.map(|()| (out, context.take_changed()))
        };
        let counted = Some((misfit, 1));
        assert_eq!(write(Policy::Null, false), Ok((vec![0], counted)), "{codec:?}");
        let near = near.map_or(vec![0], |near| [&[2][..], &near].concat());
        assert_eq!(write(Policy::Clamp, false), Ok((near, counted)), "{codec:?}");
        let refused = Err(ValueError::Misfit(misfit));
        assert_eq!(write(Policy::Reject, false), refused, "{codec:?}");
        assert_eq!(write(Policy::Clamp, true), refused, "{codec:?} in a key");
        assert_eq!(write(Policy::Null, true), refused, "{codec:?} in a key");
    }
}

#[test]
fn an_element_that_does_not_fit_is_null_alone() {
    let decimals = array(Codec::Decimal { precision: 4, scale: 2 });
    assert_eq!(text(&decimals, "{1.5,NaN}").unwrap(), [4, 2, 4, 0, 150, 0, 0]);
    let range = Codec::Range(Box::new(Codec::Decimal { precision: 4, scale: 2 }));
    let misfit = Err(ValueError::Misfit(Misfit::Number));
    assert_eq!(text(&range, "[1,NaN)"), misfit, "a null bound would mean that there is none");
}

#[test]
fn what_postgresql_does_not_write_is_malformed() {
    let cases = [
        (Codec::Bool, "true"),
        (Codec::Int32, "2147483648"),
        (Codec::Int32, ""),
        (Codec::Decimal { precision: 10, scale: 2 }, "1e5"),
        (Codec::Decimal { precision: 10, scale: 2 }, ""),
        (Codec::Bytes, "\\xf"),
        (Codec::Bytes, "\\xzz"),
        (Codec::Bytes, "raw"),
        (Codec::Date, "2026-13-01"),
        (Codec::Money, "$"),
    ];
    for (codec, value) in cases {
        assert!(matches!(text(&codec, value), Err(ValueError::Malformed(_))), "{codec:?} {value}");
        // Any bytes are a bytea.
        let refused = codec == Codec::Bytes || binary(&codec, value.as_bytes()).is_err();
        assert!(refused, "{codec:?} {value}");
    }
}

proptest::proptest! {
    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(0_u8.., 0..40)) {
        for codec in codecs() {
            encoded(ValuePolicies::default(), &codec, &noise).ok();
            binary(&codec, &noise).ok();
            literal(&codec, &noise);
        }
    }

    /// Of small bytes, counts and lengths are more often ones that fit.
    #[test]
    fn likely_noise_never_panics(noise in proptest::collection::vec(0_u8..5, 0..40)) {
        for codec in codecs() {
            binary(&codec, &noise).ok();
            literal(&codec, &noise);
        }
    }
}

//! The primitives of Avro's binary encoding, appended to a buffer.
//!
//! A column outside the key is preceded by [`null_branch`] (and that is all of it) or by
//! [`value_branch`]. An array is [`array_start`], its elements with a branch each, [`array_end`].

/// Appends a `boolean`.
pub fn boolean(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

/// Appends an `int`: `int2`, `int4` and the days since 1970 of a `date`.
pub fn int(out: &mut Vec<u8>, value: i32) {
    long(out, i64::from(value));
}

/// Appends a `long`: `int8` and the microseconds of times and timestamps.
pub fn long(out: &mut Vec<u8>, value: i64) {
    const SEVEN_BITS: u64 = 0x7F;
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest > SEVEN_BITS {
        out.push(lowest_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.push(lowest_byte(rest));
}

/// Appends a `float`.
pub fn float(out: &mut Vec<u8>, value: f32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a `double`.
pub fn double(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends `bytes`.
pub fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    size(out, value.len());
    out.extend_from_slice(value);
}

/// Appends a `string`: text, JSON and the 36 characters of a UUID.
pub fn string(out: &mut Vec<u8>, value: &str) {
    bytes(out, value.as_bytes());
}

/// Appends a `decimal`: `unscaled` is the value × 10^scale, as big-endian two's complement in as
/// few bytes as hold it, so that equal numbers have equal bytes.
pub fn decimal(out: &mut Vec<u8>, unscaled: i128) {
    let sign_bits = if unscaled < 0 { unscaled.leading_ones() } else { unscaled.leading_zeros() };
    let spare_bytes = usize::try_from((sign_bits - 1) / 8).unwrap_or(0);
    let all = unscaled.to_be_bytes();
    bytes(out, all.get(spare_bytes..).unwrap_or(&all));
}

/// Appends the null of a `["null", T]`.
pub fn null_branch(out: &mut Vec<u8>) {
    out.push(0);
}

/// Announces the value of a `["null", T]`, which follows.
pub fn value_branch(out: &mut Vec<u8>) {
    out.push(2);
}

/// Starts an array of `count` elements, which follow, each with its branch; then [`array_end`].
pub fn array_start(out: &mut Vec<u8>, count: usize) {
    if count > 0 {
        size(out, count);
    }
}

/// Ends an array.
pub fn array_end(out: &mut Vec<u8>) {
    out.push(0);
}

/// No buffer of ours is longer than `i64::MAX` bytes.
fn size(out: &mut Vec<u8>, size: usize) {
    long(out, i64::try_from(size).unwrap_or(i64::MAX));
}

fn lowest_byte(value: u64) -> u8 {
    let [lowest, ..] = value.to_le_bytes();
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longs_are_zigzag_varints() {
        let cases: [(i64, &[u8]); 7] = [
            (0, &[0]),
            (-1, &[1]),
            (1, &[2]),
            (-64, &[0x7F]),
            (64, &[0x80, 1]),
            (i64::MAX, &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
            (i64::MIN, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
        ];
        for (value, expected) in cases {
            let mut out = Vec::new();
            long(&mut out, value);
            assert_eq!(out, expected, "{value}");
        }
    }

    #[test]
    fn decimals_take_the_fewest_bytes() {
        let cases: [(i128, &[u8]); 8] = [
            (0, &[2, 0]),
            (-1, &[2, 0xFF]),
            (127, &[2, 0x7F]),
            (128, &[4, 0, 0x80]),
            (-128, &[2, 0x80]),
            (-129, &[4, 0xFF, 0x7F]),
            (i128::MAX, &[&[32, 0x7F][..], &[0xFF; 15]].concat()),
            (i128::MIN, &[&[32, 0x80][..], &[0; 15]].concat()),
        ];
        for (value, expected) in cases {
            let mut out = Vec::new();
            decimal(&mut out, value);
            assert_eq!(out, expected, "{value}");
        }
    }
}

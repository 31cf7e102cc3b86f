//! The primitives of Avro's binary encoding, appended to a buffer.
//!
//! A column outside the key is preceded by [`null_branch`] (and that is all of it) or by
//! [`value_branch`]. An array is [`array_start`], its elements with a branch each, [`array_end`]; a
//! map the same, with a [`string`] before each branch. A record is its members one after another.

use arrow_buffer::i256;

/// What one byte of an integer has room for.
const SEVEN_BITS: u64 = 0x7F;
/// Bytes of the longest integer: 64 bits, seven in each.
const VARINT_BYTES_MAX: usize = 10;

/// Appends a `boolean`.
#[inline]
pub fn boolean(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

/// Appends an `int`: `int2`, `int4` and the days since 1970 of a `date`.
#[inline]
pub fn int(out: &mut Vec<u8>, value: i32) {
    long(out, i64::from(value));
}

/// Appends a `long`: `int8` and the microseconds of times and timestamps.
#[inline]
pub fn long(out: &mut Vec<u8>, value: i64) {
    let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    if zigzag <= SEVEN_BITS {
        out.push(lowest_byte(zigzag));
    } else {
        varint(out, zigzag);
    }
}

/// The bytes are put together first, so that the buffer is asked once whether it has room.
fn varint(out: &mut Vec<u8>, mut rest: u64) {
    let (mut bytes, mut count) = ([0; VARINT_BYTES_MAX], 0);
    for byte in &mut bytes {
        count += 1;
        *byte = lowest_byte(rest) | 0x80;
        rest >>= 7;
        if rest == 0 {
            *byte &= 0x7F;
            break;
        }
    }
    out.extend_from_slice(bytes.get(..count).unwrap_or(&bytes));
}

/// Appends a `float`.
#[inline]
pub fn float(out: &mut Vec<u8>, value: f32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a `double`.
#[inline]
pub fn double(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends `bytes`.
#[inline]
pub fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    size(out, value.len());
    out.extend_from_slice(value);
}

/// Appends a `string`: text, JSON and the 36 characters of a UUID.
#[inline]
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

/// Appends a `decimal` of more than 38 digits, as [`decimal`] does.
pub fn wide_decimal(out: &mut Vec<u8>, unscaled: i256) {
    let (low, high) = unscaled.to_parts();
    if let Ok(narrow) = i128::try_from(low)
        && high == 0
    {
        return decimal(out, narrow);
    }
    if high == -1 && low.cast_signed() < 0 {
        return decimal(out, low.cast_signed());
    }
    let all = unscaled.to_be_bytes();
    let fill = if high < 0 { 0xFF } else { 0 };
    // A byte that the next one's sign tells.
    let is_spare = |pair: &&[u8; 2]| pair[0] == fill && (pair[1] ^ fill) < 0x80;
    let spare_bytes = all.array_windows::<2>().take_while(is_spare).count();
    bytes(out, all.get(spare_bytes..).unwrap_or(&all));
}

/// Appends the null of a `["null", T]`.
#[inline]
pub fn null_branch(out: &mut Vec<u8>) {
    out.push(0);
}

/// Announces the value of a `["null", T]`, which follows.
#[inline]
pub fn value_branch(out: &mut Vec<u8>) {
    out.push(2);
}

/// Starts an array or a map of `count` elements, which follow; then [`array_end`].
pub fn array_start(out: &mut Vec<u8>, count: usize) {
    if count > 0 {
        size(out, count);
    }
}

/// Ends an array or a map.
pub fn array_end(out: &mut Vec<u8>) {
    out.push(0);
}

/// No buffer of ours is longer than `i64::MAX` bytes.
#[inline]
fn size(out: &mut Vec<u8>, size: usize) {
    long(out, i64::try_from(size).unwrap_or(i64::MAX));
}

#[inline]
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
    fn wide_decimals_are_written_as_narrow_ones() {
        let narrow = [0, 1, -1, 127, 128, -128, -129, i128::MAX, i128::MIN, 1 << 100, -(1 << 100)];
        for value in narrow {
            let (mut wide, mut out) = (Vec::new(), Vec::new());
            wide_decimal(&mut wide, i256::from_i128(value));
            decimal(&mut out, value);
            assert_eq!(wide, out, "{value}");
        }
        let cases = [
            (i256::from_parts(1 << 127, 0), [&[34, 0, 0x80][..], &[0; 15]].concat()),
            (i256::from_parts(u128::MAX >> 1, -1), [&[34, 0xFF, 0x7F][..], &[0xFF; 15]].concat()),
            (i256::MAX, [&[64, 0x7F][..], &[0xFF; 31]].concat()),
            (i256::MIN, [&[64, 0x80][..], &[0; 31]].concat()),
        ];
        for (value, expected) in cases {
            let mut out = Vec::new();
            wide_decimal(&mut out, value);
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

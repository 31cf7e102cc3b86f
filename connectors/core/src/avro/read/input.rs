//! The primitives of Avro's binary encoding, read from the front of a slice.

use arrow_buffer::i256;

use crate::avro::Malformed;

/// The bytes of a 64-bit varint, seven bits each.
const LONG_BYTES_MAX: usize = 10;

/// What is left of a payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// Checks that nothing is left.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Boolean),
        }
    }

    #[inline]
    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        // Lengths, branches and most numbers take one byte.
        match self.rest.split_first() {
            Some((first, rest)) if *first < 0x80 => {
                self.rest = rest;
                Ok(unzigzag(u64::from(*first)))
            }
            _ => self.wide_long(),
        }
    }

    fn wide_long(&mut self) -> Result<i64, Malformed> {
        let mut zigzag = 0_u64;
        let mut shift = 0;
        for (place, byte) in self.rest.iter().take(LONG_BYTES_MAX).enumerate() {
            zigzag |= u64::from(byte & 0x7F) << shift;
            if *byte < 0x80 {
                // The last byte has room for one bit.
                let fits = place + 1 < LONG_BYTES_MAX || *byte <= 1;
                self.skip(place + 1)?;
                return if fits { Ok(unzigzag(zigzag)) } else { Err(Malformed::Number) };
            }
            shift += 7;
        }
        let is_cut = self.rest.len() < LONG_BYTES_MAX;
        Err(if is_cut { Malformed::Truncated } else { Malformed::Number })
    }

    /// An `int`, or any narrower integer.
    pub(super) fn int<T: TryFrom<i64>>(&mut self) -> Result<T, Malformed> {
        T::try_from(self.long()?).map_err(|_| Malformed::Number)
    }

    pub(super) fn float(&mut self) -> Result<f32, Malformed> {
        self.array().map(f32::from_le_bytes)
    }

    pub(super) fn double(&mut self) -> Result<f64, Malformed> {
        self.array().map(f64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.long()?;
        let len = usize::try_from(len).map_err(|_| Malformed::Length)?;
        self.take(len)
    }

    pub(super) fn string(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8)
    }

    /// The unscaled value of a `decimal`; longer forms than the shortest are read, too.
    pub(super) fn decimal(&mut self) -> Result<i128, Malformed> {
        self.sign_extended().map(i128::from_be_bytes)
    }

    /// The same in twice the width.
    pub(super) fn wide_decimal(&mut self) -> Result<i256, Malformed> {
        self.sign_extended().map(i256::from_be_bytes)
    }

    fn sign_extended<const LEN: usize>(&mut self) -> Result<[u8; LEN], Malformed> {
        let bytes = self.bytes()?;
        let is_negative = bytes.first().is_some_and(|first| *first >= 0x80);
        let fill = if is_negative { 0xFF } else { 0 };
        let mut wide = [fill; LEN];
        let spare = LEN.checked_sub(bytes.len()).ok_or(Malformed::Decimal)?;
        wide.get_mut(spare..).ok_or(Malformed::Decimal)?.copy_from_slice(bytes);
        Ok(wide)
    }

    /// The branch of a `["null", T]`: whether a value follows.
    pub(super) fn branch(&mut self) -> Result<bool, Malformed> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Branch),
        }
    }

    /// The header of an array's next block: how many elements follow; 0 ends the array.
    ///
    /// A negative count is followed by the block's size in bytes, which is of use to no one here.
    fn block(&mut self) -> Result<u64, Malformed> {
        let count = self.long()?;
        if count < 0 {
            self.long()?;
        }
        Ok(count.unsigned_abs())
    }

    /// Reads every element of an array or a map by `read`. Each takes a byte at least, its branch or
    /// the length of its name, so the payload bounds this.
    pub(super) fn blocks(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        loop {
            match self.block()? {
                0 => return Ok(()),
                count => (0..count).try_for_each(|_| read(self))?,
            }
        }
    }

    pub(super) fn skip(&mut self, len: usize) -> Result<(), Malformed> {
        self.take(len).map(|_| ())
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn unzigzag(zigzag: u64) -> i64 {
    (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_end_after_64_bits() {
        let nines = [0xFF; 9];
        let long = |last: &[u8]| {
            let payload = [nines.as_slice(), last].concat();
            let mut input = Input::new(&payload);
            input.long().and_then(|value| input.end().map(|()| value))
        };
        assert_eq!(long(&[1]), Ok(i64::MIN));
        assert_eq!(long(&[2]), Err(Malformed::Number));
        assert_eq!(long(&[0xFF, 0]), Err(Malformed::Number));
        assert_eq!(long(&[]), Err(Malformed::Truncated));
        assert_eq!(Input::new(&[0x80, 0]).long(), Ok(0), "a longer form than needed");
    }

    #[test]
    fn lengths_are_not_trusted() {
        let bytes = |payload: &[u8]| Input::new(payload).bytes().map(<[u8]>::to_vec);
        assert_eq!(bytes(&[4, 7, 8]), Ok(vec![7, 8]));
        assert_eq!(bytes(&[6, 7, 8]), Err(Malformed::Truncated));
        assert_eq!(bytes(&[1]), Err(Malformed::Length));
        assert_eq!(bytes(&[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]), {
            Err(Malformed::Truncated)
        });
    }

    #[test]
    fn decimals_are_sign_extended() {
        let decimal = |payload: &[u8]| Input::new(payload).decimal();
        assert_eq!(decimal(&[0]), Ok(0));
        assert_eq!(decimal(&[2, 0x80]), Ok(-128));
        assert_eq!(decimal(&[4, 0, 0x80]), Ok(128));
        assert_eq!(decimal(&[&[34][..], &[0; 17]].concat()), Err(Malformed::Decimal));
    }
}

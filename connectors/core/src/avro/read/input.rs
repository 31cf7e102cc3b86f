//! The primitives of Avro's binary encoding, read from the front of a slice.

use crate::avro::Malformed;

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

    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        let mut zigzag = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            zigzag |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                // The tenth byte has room for one bit.
                let fits = shift < 63 || byte <= 1;
                let value = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
                return if fits { Ok(value) } else { Err(Malformed::Number) };
            }
        }
        Err(Malformed::Number)
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
        const LEN: usize = size_of::<i128>();
        let bytes = self.bytes()?;
        let is_negative = bytes.first().is_some_and(|first| *first >= 0x80);
        let fill = if is_negative { 0xFF } else { 0 };
        let mut wide = [fill; LEN];
        let spare = LEN.checked_sub(bytes.len()).ok_or(Malformed::Decimal)?;
        wide.get_mut(spare..).ok_or(Malformed::Decimal)?.copy_from_slice(bytes);
        Ok(i128::from_be_bytes(wide))
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
    pub(super) fn block(&mut self) -> Result<u64, Malformed> {
        let count = self.long()?;
        if count < 0 {
            self.long()?;
        }
        Ok(count.unsigned_abs())
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

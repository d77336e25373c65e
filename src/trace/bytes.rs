// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers to bytes and back. Whatever is missing or wrong is an error that names the offset.

use super::TraceError;

/// Appends a number in as few bytes as it needs: 7 bits each, the lowest first (LEB128).
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A signed number so that small ones of either sign are small: 0, -1, 1, -2, ...
pub(super) const fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// Undoes [`zigzag`].
pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// A place in bytes that came from a file.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    offset: u64,
    /// Bytes of the file that one byte here stands for: 1, or 0 if they were compressed.
    step: u64,
}

impl<'a> Cursor<'a> {
    /// Bytes that stand at `offset` of the file.
    pub(super) fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset, step: 1 }
    }

    /// Bytes that stand compressed at `offset` of the file.
    #[cfg(feature = "lz4")]
    pub(super) fn compressed(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset, step: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn damaged(&self, what: &'static str) -> TraceError {
        TraceError::Damaged { offset: self.offset, what }
    }

    /// `value`, if it is at most `max`.
    pub(super) fn at_most(
        &self,
        what: &'static str,
        value: u64,
        max: u64,
    ) -> Result<u64, TraceError> {
        if value > max {
            return Err(TraceError::TooLarge { offset: self.offset, what, value, max });
        }
        Ok(value)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], TraceError> {
        let (head, rest) =
            self.rest.split_at_checked(bytes).ok_or_else(|| self.damaged("it ends too early"))?;
        self.rest = rest;
        self.offset += bytes as u64 * self.step;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], TraceError> {
        let (head, rest) =
            self.rest.split_first_chunk().ok_or_else(|| self.damaged("it ends too early"))?;
        self.rest = rest;
        self.offset += N as u64 * self.step;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, TraceError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, TraceError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, TraceError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, TraceError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number that [`put`] wrote, in no more bytes than it needs.
    #[inline]
    pub(super) fn number(&mut self) -> Result<u64, TraceError> {
        // Most numbers take one byte.
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            self.offset += self.step;
            return Ok(u64::from(*byte));
        }
        self.long_number()
    }

    fn long_number(&mut self) -> Result<u64, TraceError> {
        let mut value = 0_u64;
        for (at, &byte) in self.rest.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * at);
            if byte < 0x80 {
                if byte == 0 && at > 0 {
                    break;
                }
                self.rest = &self.rest[at + 1..];
                self.offset += (at as u64 + 1) * self.step;
                return Ok(value);
            }
        }
        Err(self.damaged("not a number"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for bad in [&[0x80][..], &[0x80, 0], &[0xff; 10], &[0x80; 11]] {
            Cursor::new(bad, 7).number().unwrap_err();
        }
        let mut most = vec![0xff; 9];
        most.push(1);
        assert_eq!(Cursor::new(&most, 0).number().unwrap(), u64::MAX);
        most[9] = 2;
        let error = Cursor::new(&most, 7).number().unwrap_err();
        assert!(matches!(error, TraceError::Damaged { offset: 7, .. }));
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, shift in 0_u32..64, signed: i64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes, 0);
            prop_assert_eq!(cursor.number().unwrap(), value);
            prop_assert_eq!((cursor.len(), cursor.offset()), (0, bytes.len() as u64));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }
}

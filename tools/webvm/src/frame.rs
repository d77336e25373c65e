// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes around a saved state: whose it is, its version, and a checksum. Little-endian.
//!
//! ```text
//! magic number, 4 bytes | version u16 | contents | CRC32 of all that u32
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use precopy::guest::GuestError;

/// Bytes before the contents, and after them.
const HEAD_BYTES: usize = 6;
const SUM_BYTES: usize = 4;

/// A kind of state.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a constant that each kind of guest writes down")]
pub struct Frame {
    /// What it begins with.
    pub magic: [u8; 4],
    /// Version of the contents; others are refused.
    pub version: u16,
    /// Whose state it is, in words.
    pub of: &'static str,
}

/// Why a state cannot be imported.
#[must_use]
pub fn bad(why: impl Into<String>) -> GuestError {
    GuestError::because("import the state", why.into())
}

impl Frame {
    /// A state with these contents.
    #[must_use]
    pub fn seal(&self, contents: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_BYTES + contents.len() + SUM_BYTES);
        out.put_slice(&self.magic);
        out.put_u16_le(self.version);
        out.put_slice(contents);
        out.put_u32_le(crc32fast::hash(&out));
        out.freeze()
    }

    /// The contents of a state.
    ///
    /// # Errors
    /// [`GuestError`] if it is damaged, of another kind, or of another version.
    pub fn open(&self, mut state: Bytes) -> Result<Bytes, GuestError> {
        if state.len() < HEAD_BYTES + SUM_BYTES {
            return Err(bad("it is too short"));
        }
        let body = state.len() - SUM_BYTES;
        let sum = crc32fast::hash(&state[..body]);
        if state.split_off(body).get_u32_le() != sum {
            return Err(bad("its checksum is wrong"));
        }
        let mut magic = [0; 4];
        state.copy_to_slice(&mut magic);
        if magic != self.magic {
            return Err(bad(format!("it is not the state of {}", self.of)));
        }
        let version = state.get_u16_le();
        if version != self.version {
            return Err(bad(format!(
                "its version is {version}; this guest reads {}",
                self.version
            )));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    const FRAME: Frame = Frame { magic: *b"TEST", version: 3, of: "a test" };

    #[test]
    fn contents_come_back_and_every_damaged_byte_is_noticed() {
        for contents in [&b""[..], b"x", b"some contents"] {
            let state = FRAME.seal(contents);
            assert_eq!(FRAME.open(state.clone()).unwrap(), contents);
            for at in 0..state.len() {
                let mut damaged = state.to_vec();
                damaged[at] ^= 0x10;
                assert!(FRAME.open(damaged.into()).is_err(), "byte {at}");
                assert!(FRAME.open(state.slice(..at)).is_err(), "{at} bytes");
            }
        }
    }

    #[test]
    fn others_are_named() {
        let why = |frame: Frame| {
            let error = FRAME.open(frame.seal(b"")).unwrap_err();
            error.source().unwrap().to_string()
        };
        let text = why(Frame { magic: *b"ELSE", ..FRAME });
        assert!(text.contains("it is not the state of a test"), "{text}");
        let text = why(Frame { version: 4, ..FRAME });
        assert!(text.contains("its version is 4; this guest reads 3"), "{text}");
    }
}

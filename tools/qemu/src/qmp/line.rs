// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cuts what a QMP server says into lines, of bounded length.

/// Longest line that is taken, in bytes. What a QEMU with hundreds of devices answers fits
/// many times over.
pub(super) const LINE_BYTES_MAX: usize = 4 << 20;

/// Bytes that came and were not yet cut.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Up to here there is no end of a line.
    looked_at: usize,
}

/// A line has more than [`LINE_BYTES_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooLong;

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its end; `None` if more must come first.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let found = self.buffer[self.looked_at..].iter().position(|byte| *byte == b'\n');
        let Some(at) = found.map(|at| at + self.looked_at) else {
            self.looked_at = self.buffer.len();
            return if self.looked_at > LINE_BYTES_MAX { Err(TooLong) } else { Ok(None) };
        };
        let rest = self.buffer.split_off(at + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.pop();
        self.looked_at = 0;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_in_order() {
        let mut lines = Lines::default();
        lines.push(b"one");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b" line\r\n\ntwo\nthr");
        assert_eq!(lines.next(), Ok(Some(b"one line\r".to_vec())));
        assert_eq!(lines.next(), Ok(Some(Vec::new())));
        assert_eq!(lines.next(), Ok(Some(b"two".to_vec())));
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"ee\n");
        assert_eq!(lines.next(), Ok(Some(b"three".to_vec())));
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_BYTES_MAX]);
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"x");
        assert_eq!(lines.next(), Err(TooLong));
    }
}

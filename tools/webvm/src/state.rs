// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPU state on its way to the destination: little-endian, versioned, checked.
//!
//! ```text
//! "WVMS" | version u16 | vCPUs u16 | guest's line: length u16, bytes | pages u64 | boot u64
//! | per vCPU: ops u64, last step u64 (ns of CLOCK_MONOTONIC, 0 if none) | CRC32 of all that u32
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use precopy::guest::GuestError;

use crate::frame::{Frame, bad};

const FRAME: Frame = Frame { magic: *b"WVMS", version: 1, of: "a test guest" };

/// What one vCPU takes along.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct VcpuState {
    pub(crate) ops: u64,
    /// `CLOCK_MONOTONIC` of the last step; 0 if there was none.
    pub(crate) last_step_ns: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GuestState {
    pub(crate) config: String,
    pub(crate) pages: u64,
    /// Names the boot whose clock the time stamps are of; 0 if unknown.
    pub(crate) boot: u64,
    pub(crate) vcpus: Vec<VcpuState>,
}

impl GuestState {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u16_le(u16::try_from(self.vcpus.len()).expect("at most 256 vCPUs"));
        out.put_u16_le(u16::try_from(self.config.len()).expect("at most 512 bytes"));
        out.put_slice(self.config.as_bytes());
        out.put_u64_le(self.pages);
        out.put_u64_le(self.boot);
        for vcpu in &self.vcpus {
            out.put_u64_le(vcpu.ops);
            out.put_u64_le(vcpu.last_step_ns);
        }
        FRAME.seal(&out)
    }

    /// Reads what [`encode`](Self::encode) wrote; anything else is an error.
    pub(crate) fn decode(from: Bytes) -> Result<Self, GuestError> {
        let mut from = FRAME.open(from)?;
        let short = |_| bad("it ends early");
        let vcpus = from.try_get_u16_le().map_err(short)?;
        let config_bytes = usize::from(from.try_get_u16_le().map_err(short)?);
        if from.len() != config_bytes + 16 + 16 * usize::from(vcpus) {
            return Err(bad("its length does not match its contents"));
        }
        let config = String::from_utf8(from.split_to(config_bytes).to_vec())
            .map_err(|_| bad("its guest's description is not text"))?;
        let pages = from.try_get_u64_le().map_err(short)?;
        let boot = from.try_get_u64_le().map_err(short)?;
        let mut vcpu = || -> Result<_, bytes::TryGetError> {
            Ok(VcpuState { ops: from.try_get_u64_le()?, last_step_ns: from.try_get_u64_le()? })
        };
        let vcpus = (0..vcpus).map(|_| vcpu()).collect::<Result<_, _>>().map_err(short)?;
        Ok(Self { config, pages, boot, vcpus })
    }
}

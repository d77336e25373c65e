// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One rate from the first page to the pause (QEMU's `max-bandwidth`).

use super::{RateInfo, RatePolicy};
use crate::policy::Observation;
use crate::policy::parameters::{ParameterInfo, ParameterKind};

pub(super) const INFO: RateInfo = RateInfo {
    name: "constant",
    rule: "one rate for all live rounds",
    source: "QEMU, migration/options.c, max-bandwidth (128 MiB/s)",
    parameters: &[ParameterInfo::new(
        "bytes_per_s",
        ParameterKind::Integer { min: 1, max: 1 << 50 },
        "134217728",
        "most bytes per second while the guest runs",
    )],
    build: |values| Box::new(Constant { bytes_per_s: values.integer("bytes_per_s") }),
};

/// One rate.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Constant {
    bytes_per_s: u64,
}

impl RatePolicy for Constant {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn rate(&mut self, _seen: &Observation) -> Option<u64> {
        Some(self.bytes_per_s)
    }

    fn fork(&self) -> Box<dyn RatePolicy> {
        Box::new(self.clone())
    }
}

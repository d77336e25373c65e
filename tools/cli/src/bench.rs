// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy bench`.
pub(crate) mod copy {
    pub(crate) fn sink(_: &crate::args::CopySinkArgs) -> anyhow::Result<crate::exit::Exit> { unimplemented!() }
}
pub(crate) fn run(_: &crate::args::BenchArgs) -> anyhow::Result<crate::exit::Exit> { unimplemented!() }

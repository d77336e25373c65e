// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test guest, shared between the engine and whoever audits it.

use std::sync::Arc;

use precopy::engine::CreatedGuest;
use precopy::guest::GuestError;
use precopy::memory::{MapOptions, MappedMemory, PageWriter};
use precopy::wire::Hello;
use webvm::{GuestConfig, SharedVm};

/// What a source calls this kind of guest.
const KIND: &str = "webvm ";

/// How a source describes its guest to the destination.
pub(crate) fn describe(config: &GuestConfig) -> String {
    format!("{KIND}{config}")
}

/// Builds the guest that a source describes, and its handle.
pub(crate) fn create(
    hello: &Hello,
    map: MapOptions,
    pretouch: bool,
) -> Result<(CreatedGuest, SharedVm), GuestError> {
    let line = hello.guest.strip_prefix(KIND).ok_or_else(|| {
        GuestError::because(
            "be built",
            format!("this host runs test guests, not {:?}", hello.guest),
        )
    })?;
    let config: GuestConfig =
        line.parse().map_err(|error| GuestError::because("be built", error))?;
    let memory = MappedMemory::new(hello.regions.clone(), map)
        .map_err(|error| GuestError::because("get its memory", error))?;
    if pretouch {
        memory
            .prefault(hello.regions.all())
            .map_err(|error| GuestError::because("get its memory", error))?;
    }
    let memory = Arc::new(memory);
    let vm = SharedVm::new(config, Arc::clone(&memory) as _, None)?;
    Ok((CreatedGuest { memory, guest: Box::new(vm.clone()) }, vm))
}

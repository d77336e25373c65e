// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live migration of an unmodified QEMU by the `precopy` engine.
//!
//! ```text
//!  QEMU (runs)                                                       QEMU -incoming defer
//!   │ RAM file, mapped shared                                         │ RAM file, mapped shared
//!   ├─ pages written: tracked from outside ──> engine ══ TCP ══> engine ── pages written to it
//!   └─ QMP: stop, device state as bytes ─────> state ═══════════> state ── QMP: migrate-incoming
//!                                              Commit ══════════> cont   (R4: then and only then)
//! ```
//!
//! - [`machine`]: what a QEMU is and what its process maps; [`obstacle`]: what forbids a
//!   migration; [`identity`]: what must be the same at both sides.
//! - [`attach`]: its memory and what finds its writes, for the engine.
//! - [`source`], [`destination`]: QEMU as the engine's guest; [`guard`]: what lets a stopped guest
//!   go on if the sending process is killed; [`release`]: how to mend it later.
//! - [`qmp`]: the client; [`process`], [`ram`]: mappings, files and the end of a process.

pub mod attach;
pub mod destination;
mod error;
pub mod guard;
pub mod identity;
pub mod machine;
pub mod obstacle;
pub mod process;
pub mod qmp;
pub mod ram;
pub mod release;
pub mod source;
mod state;

pub use error::QemuError;

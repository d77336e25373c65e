// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The network between users and guest: a switch that holds the users' connections and follows
//! the guest from host to host.
//!
//! ```text
//! clients ──TCP──> [switch] ──numbered frames──> [port of the host that runs the guest] ──> guest
//! ```
//!
//! Frames are numbered in each direction and kept by their sender until the other side has
//! acknowledged them: the switch keeps frames for the guest, the guest keeps its own in its
//! memory, where they migrate with it. At handover the destination host attaches a new port and
//! says how far the guest's memory has come. So nothing is lost and nothing doubled, whatever
//! was on its way to or from the old host, and whether that host still lives.

mod clients;
mod exchange;
pub mod fake;
mod files;
mod frame;
mod inprocess;
mod link;
mod port;
mod prober;
pub mod rig;
mod switch;
mod timer;
mod uplink;
mod wire;

#[cfg(test)]
mod tests;

pub use clients::{
    ClientsError, ClientsJournal, ClientsLog, ClientsOptions, ClientsProgress, LiveClients,
};
pub use files::{FileLimitError, reserve_files};
pub use frame::{FRAME_BYTES_MAX, Frame, FrameKind};
pub use inprocess::InProcessPort;
pub use link::LinkError;
pub use port::{Attach, Full, GuestPort, PortError, PortWaker};
pub use prober::{ProbeGap, ProbeLog, Prober, ProberError, ProberOptions};
pub use switch::{Attachment, Switch, SwitchError, SwitchOptions, SwitchStatus};
pub use uplink::{Uplink, UplinkPort};
pub use wire::WireError;

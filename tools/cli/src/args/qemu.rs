// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A QEMU to look at, to send, to receive with, to let go.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::{ListenArgs, SourceArgs};
use crate::parse;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy qemu inspect --qmp /run/vm.qmp
  precopy qemu receive --qmp /run/new.qmp --listen 127.0.0.1:7700
  precopy qemu send --qmp /run/vm.qmp --to 127.0.0.1:7700 --policy descend

The QEMU to send runs with its RAM in a shared file:
  qemu-system-x86_64 -object memory-backend-file,id=ram,size=2G,mem-path=/dev/shm/vm,share=on \\
    -machine q35,memory-backend=ram -m 2G -qmp unix:/run/vm.qmp,server=on,wait=off ...
The one to receive with has the same options, another file and socket, and -incoming defer.")]
pub(crate) struct QemuArgs {
    #[command(subcommand)]
    pub(crate) command: QemuCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum QemuCommand {
    /// Say what a QEMU is, and what forbids its migration
    Inspect(InspectArgs),
    /// Migrate the guest of a running QEMU to a destination
    Send(Box<QemuSendArgs>),
    /// Take a guest over into a QEMU that waits for one
    Receive(QemuReceiveArgs),
    /// Let the guest of a QEMU go on that an interrupted migration left stopped
    Release(ReleaseArgs),
    /// Lets a guest go on if the process that stopped it dies; reads what that does on its
    /// standard input
    #[command(hide = true)]
    Guard(GuardArgs),
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy qemu inspect --qmp /run/vm.qmp
  precopy qemu inspect --qmp /run/vm.qmp --json

Exit code 1 if the QEMU can play neither part of a migration.")]
pub(crate) struct InspectArgs {
    /// QEMU's control socket (-qmp unix:SOCKET,server=on,wait=off)
    #[arg(long, value_name = "SOCKET")]
    pub(crate) qmp: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy qemu send --qmp /run/vm.qmp --to 127.0.0.1:7700
  precopy qemu send --qmp /run/vm.qmp --to 127.0.0.1:7700 --policy qemu:downtime_ms=50 \\
    --bandwidth-cap 1Gbit/s --quit-source
  precopy qemu send --qmp /run/vm.qmp --to 127.0.0.1:7700 --verify --json

The guest runs on at the source after every failure before the handover, also if this process
is killed. After the handover the QEMU at the source stays, stopped, unless --quit-source.")]
pub(crate) struct QemuSendArgs {
    /// Control socket of the QEMU to send
    #[arg(long, value_name = "SOCKET")]
    pub(crate) qmp: PathBuf,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// End the QEMU here once the guest was handed over
    #[arg(long)]
    pub(crate) quit_source: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy qemu receive --qmp /run/new.qmp
  precopy qemu receive --qmp /run/new.qmp --listen 127.0.0.1:7700 --journal /var/lib/precopy/vm
  precopy qemu receive --qmp /run/new.qmp --once --json

A guest that was handed over runs on in its QEMU when this process ends. A QEMU that took a
guest's device state and was not handed the guest is ended: nobody may run that copy.")]
pub(crate) struct QemuReceiveArgs {
    /// Control socket of a QEMU that was started with -incoming defer
    #[arg(long, value_name = "SOCKET")]
    pub(crate) qmp: PathBuf,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// How long to answer the source's questions after the guest was taken over, or its device
    /// state at least
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = parse::seconds)]
    pub(crate) answer_for: Duration,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy qemu release --qmp /run/vm.qmp
  precopy qemu release --qmp /run/vm.qmp --to 127.0.0.1:7700 --id 0f3c5a7d9e1b2c4d6f8091a2b3c4d5e6

A guest that may run at the destination stays stopped unless the destination says that it
never took it over. Exit code 5: still in doubt.")]
pub(crate) struct ReleaseArgs {
    /// Control socket of the QEMU that was to be sent
    #[arg(long, value_name = "SOCKET")]
    pub(crate) qmp: PathBuf,
    /// Where the destination listens, to ask it
    #[arg(long, value_name = "ADDR", requires = "id", value_parser = parse::peer)]
    pub(crate) to: Option<String>,
    /// The migration, as `send` named it
    #[arg(long, value_name = "ID", requires = "to")]
    pub(crate) id: Option<String>,
    /// How long to go on asking
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::seconds)]
    pub(crate) timeout: Duration,
    /// You know that the guest runs nowhere else, and never will
    #[arg(long, conflicts_with = "to")]
    pub(crate) force: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct GuardArgs {
    /// Control socket of the QEMU whose guest is being moved
    #[arg(long)]
    pub(crate) qmp: PathBuf,
    /// The migration
    #[arg(long)]
    pub(crate) id: String,
    /// At a source: where the destination listens
    #[arg(long, conflicts_with = "journal")]
    pub(crate) to: Option<String>,
    /// At a destination: its journal, if it has one
    #[arg(long)]
    pub(crate) journal: Option<PathBuf>,
}

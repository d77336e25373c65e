// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! userfaultfd in its asynchronous write-protect mode (Linux 6.7 and later): the kernel itself
//! lifts the protection at the first write to a page and remembers that it did; nobody reads the
//! file descriptor.
//!
//! Numbers and layouts are those of `include/uapi/linux/userfaultfd.h`.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

const UFFD_API: u64 = 0xaa;
pub(super) const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;

/// What the tracker cannot do without. Memory that was never populated needs markers for the
/// pages of a block that is protected as a whole.
const FEATURES: u64 = FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct AddressRange {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: AddressRange,
    mode: u64,
    ioctls: u64,
}

const _: () = assert!(size_of::<Api>() == 24);
const _: () = assert!(size_of::<AddressRange>() == 16);
const _: () = assert!(size_of::<Register>() == 32);

nix::ioctl_readwrite!(
    /// `UFFDIO_API`.
    uffdio_api, 0xaa, 0x3f, Api
);
nix::ioctl_readwrite!(
    /// `UFFDIO_REGISTER`.
    uffdio_register, 0xaa, 0x00, Register
);
nix::ioctl_read!(
    /// `UFFDIO_UNREGISTER`.
    uffdio_unregister, 0xaa, 0x01, AddressRange
);

/// How a userfaultfd is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum UffdMode {
    /// With all rights if the process has them, else for faults from user mode only.
    #[default]
    Best,
    /// For faults from user mode only, as an unprivileged user gets it. In asynchronous mode the
    /// kernel resolves its own faults too, so nothing is lost.
    UserOnly,
}

/// A userfaultfd with asynchronous write protection.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
    user_only: bool,
}

impl Userfaultfd {
    /// Opens one and enables asynchronous write protection.
    ///
    /// # Errors
    /// If the kernel has no userfaultfd, forbids it, or lacks a feature (the error says which).
    pub fn open(mode: UffdMode) -> io::Result<Self> {
        Self::check(mode)?;
        let (fd, user_only) = Self::create(mode)?;
        handshake(&fd, FEATURES)?;
        Ok(Self { fd, user_only })
    }

    /// Takes over a fresh one that another process opened: it acts on the memory of that process.
    ///
    /// # Errors
    /// If it is no userfaultfd, somebody has used it already, or the kernel lacks a feature.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        handshake(&fd, FEATURES)?;
        Ok(Self { fd, user_only: true })
    }

    /// Whether the kernel has what is needed here.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn check(mode: UffdMode) -> io::Result<()> {
        // The kernel accepts the handshake once for each descriptor, and refuses it with EINVAL
        // if a feature is missing: ask a throw-away descriptor what there is.
        let (probe, _) = Self::create(mode)?;
        let missing = FEATURES & !handshake(&probe, 0)?;
        if missing == 0 {
            return Ok(());
        }
        let names = [
            (FEATURE_WP_HUGETLBFS_SHMEM, "WP_HUGETLBFS_SHMEM"),
            (FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED"),
            (FEATURE_WP_ASYNC, "WP_ASYNC"),
        ];
        let names: Vec<_> =
            names.iter().filter(|(bit, _)| missing & bit != 0).map(|(_, name)| *name).collect();
        let why = format!("userfaultfd lacks {}", names.join(", "));
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    /// Whether it was opened for faults from user mode only.
    #[must_use]
    pub fn user_only(&self) -> bool {
        self.user_only
    }

    /// Registers an address range of the process that opened it for write protection.
    /// Nothing is protected yet.
    ///
    /// # Errors
    /// If the range is not page-aligned (huge-page-aligned for hugetlb), not mapped, of a kind
    /// that cannot be tracked, or registered with another userfaultfd.
    pub fn register(&self, addresses: &Range<usize>) -> io::Result<()> {
        let mut arg =
            Register { range: address_range(addresses), mode: REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: the argument has the kernel's layout (asserted above) and is exclusively
        // borrowed. Registering changes no memory contents; faults are resolved by the kernel.
        unsafe { uffdio_register(self.fd.as_raw_fd(), &raw mut arg) }?;
        Ok(())
    }

    /// Ends the registration and lifts all protection in the range.
    ///
    /// # Errors
    /// If the range is not registered here.
    pub fn unregister(&self, addresses: &Range<usize>) -> io::Result<()> {
        let mut arg = address_range(addresses);
        // SAFETY: as for registering.
        unsafe { uffdio_unregister(self.fd.as_raw_fd(), &raw mut arg) }?;
        Ok(())
    }

    fn create(mode: UffdMode) -> io::Result<(OwnedFd, bool)> {
        if mode == UffdMode::Best {
            match create(0) {
                Err(refused) if refused.raw_os_error() == Some(libc::EPERM) => {}
                answer => return Ok((answer?, false)),
            }
        }
        Ok((create(UFFD_USER_MODE_ONLY)?, true))
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn create(flags: libc::c_int) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes one integer and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks for features and returns those that there are.
fn handshake(fd: &OwnedFd, features: u64) -> io::Result<u64> {
    let mut arg = Api { api: UFFD_API, features, ioctls: 0 };
    // SAFETY: the argument has the kernel's layout (asserted above) and is exclusively borrowed.
    unsafe { uffdio_api(fd.as_raw_fd(), &raw mut arg) }?;
    Ok(arg.features)
}

fn address_range(addresses: &Range<usize>) -> AddressRange {
    AddressRange { start: addresses.start as u64, len: addresses.len() as u64 }
}

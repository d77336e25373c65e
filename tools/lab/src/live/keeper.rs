// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who has the guest of an experiment, and what can be asked of it there.

use std::time::{Duration, Instant};

use precopy::guest::GuestControl as _;
use webvm::net::rig::Side;
use webvm::site::{SessionKnown, SiteAudit};
use webvm::users::Acknowledged;

use super::LiveError;
use super::host::{Hosted, Went};
use super::process::There;

/// How long the first step at a destination is waited for.
const FIRST_STEP: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// Who has the guest.
pub(super) enum Keeper {
    /// A host in this process.
    Here(Box<Hosted>),
    /// A host in a process of its own.
    There(There),
    /// It is lost, or who runs it is in doubt.
    Nobody(String),
}

impl From<Went> for Keeper {
    fn from(went: Went) -> Self {
        match went {
            Went::Here(hosted) => Self::Here(hosted),
            Went::There(there) => Self::There(there),
        }
    }
}

impl Keeper {
    /// The host's letter.
    pub(super) fn letter(&self) -> char {
        match self {
            Self::Here(hosted) => letter(hosted.side),
            Self::There(there) => letter(there.side),
            Self::Nobody(_) => '?',
        }
    }

    /// Processor time that tracking has taken from the guest at this host.
    pub(super) fn stolen(&mut self) -> Duration {
        match self {
            Self::Here(hosted) => hosted.site.stolen(),
            Self::There(there) => there.look().map(|look| look.stolen).unwrap_or_default(),
            Self::Nobody(_) => Duration::ZERO,
        }
    }

    /// Why the guest cannot go on, if so.
    pub(super) fn fault(&mut self) -> Option<String> {
        match self {
            Self::Here(hosted) => hosted.site.fault(),
            Self::There(there) => there.look().ok()?.fault,
            Self::Nobody(_) => None,
        }
    }

    /// How long the guest stood still across its migration, by its own measurement: known as soon
    /// as it has done a step here.
    pub(super) fn blackout(&mut self) -> Option<Duration> {
        let end = Instant::now() + FIRST_STEP;
        loop {
            let blackout = match self {
                Self::Here(hosted) => hosted.site.blackout(),
                Self::There(there) => there.look().ok()?.blackout,
                Self::Nobody(_) => return None,
            };
            if blackout.is_some() || Instant::now() >= end {
                return blackout;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Why the guest is gone, if its host has just died.
    pub(super) fn lost(&mut self) -> Option<LiveError> {
        match self {
            Self::There(there) => there.ended(),
            Self::Here(_) | Self::Nobody(_) => None,
        }
    }

    pub(super) fn pause(&mut self) -> Result<(), LiveError> {
        match self {
            Self::Here(hosted) => Ok(hosted.site.pause()?),
            Self::There(there) => there.pause(),
            Self::Nobody(_) => Ok(()),
        }
    }

    pub(super) fn resume(&mut self) -> Result<(), LiveError> {
        match self {
            Self::Here(hosted) => Ok(hosted.site.resume()?),
            Self::There(there) => there.resume(),
            Self::Nobody(_) => Ok(()),
        }
    }

    /// Compares the guest's memory with what the clients know; nothing if nobody has it.
    pub(super) fn audit(
        &mut self,
        acknowledged: &[Acknowledged],
        sessions: &[SessionKnown],
    ) -> Result<Option<SiteAudit>, LiveError> {
        match self {
            Self::Here(hosted) => Ok(Some(hosted.site.audit(acknowledged, sessions)?)),
            Self::There(there) => there.audit(acknowledged.to_vec(), sessions.to_vec()).map(Some),
            Self::Nobody(_) => Ok(None),
        }
    }
}

pub(super) fn letter(side: Side) -> char {
    match side {
        Side::A => 'A',
        Side::B => 'B',
    }
}

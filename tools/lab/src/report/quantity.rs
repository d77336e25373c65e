// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What claims are judged by.

use serde::{Deserialize, Serialize};
use webvm::site::Action;

/// A quantity that claims are judged by. One value per run unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Quantity {
    /// Greatest load that keeps both percentiles without a migration, users. One value.
    CapacityUsers,
    /// Whether 600 users keep the service level without a migration. One value.
    Pass600,
    /// Whether 700 users do. One value.
    Pass700,
    /// The same search with the database on a network file system, users.
    CapacityNfsUsers,
    /// Begin to resume at 600 users, s.
    TotalS,
    /// Downtime at 600 users as the users' prober sees it, s.
    DowntimeS,
    /// When the pause begins, as a share of the migration.
    PauseShare,
    /// Highest response time's completion, s after the resume.
    PeakAfterResumeS,
    /// Resume until all requests begun during the pause are answered, s.
    RecoveryS,
    /// Requests dropped, refused, reset or timed out.
    Dropped,
    /// Mean HomePage response time during pre-copy over that in the minute before it.
    Slowdown,
    /// Downtime with one process per user over downtime without, medians. One value.
    DowntimeContrast,
    /// Whether one migration at 600 users violates the 99th percentile of HomePage.
    OneP99Violated,
    /// Begin of that migration until the 99th percentile is violated, s.
    OneP99DelayS,
    /// Whether one migration at 600 users violates the 90th percentile of HomePage.
    OneP90Violated,
    /// Whether two migrations in a short period violate the 90th percentile.
    CloseP90Violated,
    /// Whether two migrations far apart violate the 90th percentile.
    SpacedP90Violated,
    /// Greatest load up to 600 at which one migration keeps every 99th percentile, users.
    /// One value.
    SafeUsers,
    /// Whether all actions keep the 99th percentile with one migration at 500 users. One value.
    Table2At500Kept,
    /// Greatest cell of Table 2 over its limit, medians. One value.
    Table2WorstShare,
    /// Greatest HomePage value of Table 2 over its limit, medians. One value.
    HomePageShare,
    /// Greatest AddPerson value of Table 2 over its limit, medians. One value.
    AddPersonShare,
    /// Ours over the paper's in the row of HomePage of Table 2; one value per load.
    RowHomePage,
    /// The same for Login.
    RowLogin,
    /// The same for TagSearch.
    RowTagSearch,
    /// The same for EventDetail.
    RowEventDetail,
    /// The same for PersonDetail.
    RowPersonDetail,
    /// The same for AddPerson.
    RowAddPerson,
    /// The same for AddEvent.
    RowAddEvent,
}

impl Quantity {
    /// The row of Table 2 for an action.
    #[must_use]
    pub fn row(action: Action) -> Self {
        match action {
            Action::HomePage => Self::RowHomePage,
            Action::Login => Self::RowLogin,
            Action::TagSearch => Self::RowTagSearch,
            Action::EventDetail => Self::RowEventDetail,
            Action::PersonDetail => Self::RowPersonDetail,
            Action::AddPerson => Self::RowAddPerson,
            Action::AddEvent => Self::RowAddEvent,
        }
    }

    /// Its unit as it is printed after a value; empty where there is none.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::CapacityUsers | Self::CapacityNfsUsers | Self::SafeUsers => "users",
            Self::TotalS
            | Self::DowntimeS
            | Self::PeakAfterResumeS
            | Self::RecoveryS
            | Self::OneP99DelayS => "s",
            Self::Dropped => "requests",
            Self::Slowdown
            | Self::DowntimeContrast
            | Self::RowHomePage
            | Self::RowLogin
            | Self::RowTagSearch
            | Self::RowEventDetail
            | Self::RowPersonDetail
            | Self::RowAddPerson
            | Self::RowAddEvent => "times",
            Self::PauseShare
            | Self::Table2WorstShare
            | Self::HomePageShare
            | Self::AddPersonShare => "%",
            Self::Pass600
            | Self::Pass700
            | Self::OneP99Violated
            | Self::OneP90Violated
            | Self::CloseP90Violated
            | Self::SpacedP90Violated
            | Self::Table2At500Kept => "",
        }
    }

    /// The words for yes and no.
    #[must_use]
    pub fn answers(self) -> (&'static str, &'static str) {
        match self {
            Self::Pass600 | Self::Pass700 => ("passes", "fails"),
            Self::OneP99Violated
            | Self::OneP90Violated
            | Self::CloseP90Violated
            | Self::SpacedP90Violated => ("violated", "kept"),
            Self::Table2At500Kept => ("met", "not met"),
            _ => ("yes", "no"),
        }
    }

    /// Whether its values are answers, 1 for yes and 0 for no.
    #[must_use]
    pub fn is_answer(self) -> bool {
        self.unit().is_empty()
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The JSON file beside a trace: rates, and samples of page contents.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::TraceError;

/// The largest companion that is read.
const BYTES_MAX: u64 = 4 << 20;

/// What was measured while a trace was recorded.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Companion {
    /// Name of the recording.
    pub trace: String,
    /// Operations (user actions) completed per second, over the recording.
    #[serde(default)]
    pub operations_per_s: Option<f64>,
    /// HTTP requests in each second of the recording.
    #[serde(default)]
    pub per_second_requests: Option<Vec<f64>>,
    /// Page contents shortly before the recording.
    #[serde(default)]
    pub content_start: Option<ContentSample>,
    /// Page contents right after it.
    #[serde(default)]
    pub content_end: Option<ContentSample>,
}

/// What writes did to page contents in about a second.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContentSample {
    /// Pages of the guest.
    pub total_pages: u64,
    /// Those that were all zero.
    pub zero_pages: u64,
    /// Length of the interval in seconds.
    pub interval_s: f64,
    /// Pages reported as written in it.
    pub dirty_pages_in_interval: u64,
    /// Those of them that were compared.
    pub sampled_pages: u64,
    /// Those compared that are all zero now.
    #[serde(default)]
    pub sampled_now_zero: u64,
    /// Those compared whose content is what it was.
    pub unchanged_content: u64,
}

impl ContentSample {
    /// Share of the written pages whose content did not change; 0 if none was compared.
    #[must_use]
    pub fn unchanged_share(&self) -> f64 {
        self.unchanged_content as f64 / self.sampled_pages.max(1) as f64
    }
}

impl Companion {
    /// Reads a companion file of up to 4 MiB.
    ///
    /// # Errors
    /// [`TraceError::Companion`] if it is not such a file, or longer.
    pub fn read(source: impl Read) -> Result<Self, TraceError> {
        serde_json::from_reader(source.take(BYTES_MAX))
            .map_err(|source| TraceError::Companion { source })
    }
}

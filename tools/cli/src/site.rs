// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The web guest and its users, as `demo`, `trace record` and live experiments take them from
//! the command line.

use lab::paper::live::{load, users_for};
use webvm::site::{PAGES_MAX, PAGES_MIN, Site, SiteConfig, WORKERS_MAX};
use webvm::users::UsersConfig;

use crate::args::{GuestArgs, untouched};
use crate::exit::usage;
use crate::show;

const PAGE: u64 = 4096;

/// The site in so many bytes of memory, and its users; checked.
pub(crate) fn plan(
    args: &GuestArgs,
    memory: u64,
    users: Option<u32>,
) -> anyhow::Result<(SiteConfig, UsersConfig)> {
    let mut plain: GuestArgs = untouched()?;
    (plain.memory, plain.seed) = (args.memory, args.seed);
    if plain != *args {
        return Err(usage(
            "Of the options under Guest, the web guest takes --memory and --seed; the others \
             belong to `--guest counters`",
        ));
    }
    let (site, config) = checked_load(memory, users, args.seed)?;
    match Site::new(site.clone()) {
        Ok(_) => Ok((site, config)),
        Err(error) => Err(usage(format!("--memory or --users: {error}"))),
    }
}

/// The paper's site in so much memory, and its users: in proportion unless `users` says how many.
pub(crate) fn checked_load(
    memory: u64,
    users: Option<u32>,
    seed: u64,
) -> anyhow::Result<(SiteConfig, UsersConfig)> {
    let pages = memory / PAGE;
    if !memory.is_multiple_of(PAGE) || !(PAGES_MIN..=PAGES_MAX).contains(&pages) {
        return Err(usage(format!(
            "--memory is {}; it must be from {} to {} in steps of 4 KiB",
            show::bytes(memory),
            show::bytes(PAGES_MIN * PAGE),
            show::bytes(PAGES_MAX * PAGE),
        )));
    }
    let users = users.unwrap_or_else(|| users_for(pages));
    if !(1..=WORKERS_MAX).contains(&users) {
        return Err(usage(format!("--users is {users}; it must be from 1 to {WORKERS_MAX}")));
    }
    Ok(load(pages, users, seed))
}

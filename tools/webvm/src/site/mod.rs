// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Web 2.0 guest: a social-events site that lives in guest memory.

mod action;
pub mod http;

pub use action::{
    Action, LINKS_MAX, Request, RequestKind, Response, STATIC_ASSETS, chain, thumbnail,
};

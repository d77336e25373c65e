// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! placeholder until the codec lands
use super::Response;
pub(crate) fn encode_response_head(_: &Response, into: &mut Vec<u8>) { into.extend_from_slice(&[0; 200]); }

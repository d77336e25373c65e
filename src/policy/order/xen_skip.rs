// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Xen's skip: rounds by address that leave out what is dirty again already.
//!
//! Before pages are sent, the dirty record is looked at without clearing it; a page that was
//! written again since the harvest is sent in a later round, or in the pause. A tracker that
//! cannot look without clearing makes this the same as [`Address`](super::Address).

use super::{OrderInfo, PageOrder};
use crate::policy::parameters::{ParameterInfo, ParameterKind};

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "xen-skip",
    rule: "rounds by address that leave out pages that are dirty again already",
    source: "Xen before 4.6, tools/libxc/xc_domain_save.c, to_skip; Clark et al., NSDI 2005",
    parameters: &[ParameterInfo::new(
        "first",
        ParameterKind::Switch,
        "false",
        "skip in the first round too, as Xen did for guests with superpages",
    )],
    build: |values| Box::new(XenSkip { first: values.switch("first") }),
};

/// Rounds by address without what is dirty again already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct XenSkip {
    first: bool,
}

impl PageOrder for XenSkip {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn skips_redirtied(&self, round: u32) -> bool {
        self.first || round > 0
    }

    fn fork(&self) -> Box<dyn PageOrder> {
        Box::new(*self)
    }
}

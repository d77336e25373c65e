// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Round counts: drift shows as a changed snapshot.

use precopy::sim::rounds::{
    Setting, faster_link_longer_downtime, render, skipping_saves_bytes, table,
};

#[test]
fn the_table_is_as_it_was() {
    let rows = table(&Setting::small()).unwrap();
    assert_eq!(rows.len(), 6 * (1 + 5 * 2));
    // A guard may end only what would not end by itself.
    let bounded = ["fixed-rounds", "xen-legacy", "xen", "stop-at-once"];
    assert!(rows.iter().all(|row| !(row.guarded && bounded.contains(&&row.policy[..]))));
    insta::assert_snapshot!("rounds", render(&rows));
}

#[test]
fn a_faster_link_can_lengthen_the_downtime() {
    let rows = faster_link_longer_downtime(&Setting::standard()).unwrap();
    insta::assert_snapshot!("faster_link", render(&rows));
    let longer = rows.windows(2).any(|pair| {
        let half_more = pair[0].downtime_ms.map(|d| d * 1.5);
        pair[1].rounds < pair[0].rounds && pair[1].downtime_ms > half_more
    });
    assert!(longer, "no step to a faster link lengthens the downtime by half");
}

#[test]
fn skipping_pages_that_are_dirty_again_saves_bytes() {
    let rows = skipping_saves_bytes(&Setting::standard()).unwrap();
    insta::assert_snapshot!("skipping", render(&rows));
    assert!(rows[0].skipped_pages > 0 && rows[1].skipped_pages == 0);
    assert!(rows[0].wire_bytes < rows[1].wire_bytes);
}

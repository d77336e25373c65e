// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The nearest of the names that there are.

use precopy::policy::nearest;

/// A hint that names the nearest, and all.
pub(super) fn hint(wrong: &str, known: &[&str]) -> String {
    let all = known.join(", ");
    match nearest(wrong, known.iter().copied()) {
        Some(name) => format!("did you mean {name:?}? There are: {all}"),
        None => format!("there are: {all}"),
    }
}

/// The first 60 characters of something that a user wrote.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_nearest_and_all() {
        let known = ["qemu", "xen", "xen-legacy"];
        assert!(hint("qmeu", &known).starts_with("did you mean \"qemu\"? There are: qemu, xen"));
        assert_eq!(hint("zzzzzz", &known), "there are: qemu, xen, xen-legacy");
        assert_eq!(shorten(&"\u{e4}".repeat(100)).chars().count(), 60);
    }
}

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
    fn a_hint_names_the_nearest_if_there_is_one_and_all() {
        let known = ["qemu", "xen", "xen-legacy", "cloud-hypervisor"];
        for (wrong, right) in [
            ("qmeu", "did you mean \"qemu\"? There are: "),
            ("XEN", "did you mean \"xen\"? There are: "),
            ("cloudhypervisor", "did you mean \"cloud-hypervisor\"? There are: "),
            ("xen_legacy", "did you mean \"xen-legacy\"? There are: "),
            ("zzzzzz", "there are: "),
        ] {
            assert_eq!(hint(wrong, &known), format!("{right}{}", known.join(", ")));
        }
    }
}

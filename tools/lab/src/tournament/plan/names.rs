// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The nearest of the names that there are.

/// The name that differs least from `wrong`, if it is at all like it.
pub(super) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let far = |name: &str| strsim::damerau_levenshtein(&wrong, &name.to_lowercase());
    let best = known.iter().copied().min_by_key(|name| far(name))?;
    // A name of which more than half must be changed is another name.
    let longer = wrong.chars().count().max(best.chars().count());
    (far(best) * 2 <= longer).then_some(best)
}

/// A hint that names the nearest, and all.
pub(super) fn hint(wrong: &str, known: &[&str]) -> String {
    let all = known.join(", ");
    match nearest(wrong, known) {
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
    fn the_nearest_is_found_and_strangers_are_not() {
        let known = ["qemu", "xen", "xen-legacy", "cloud-hypervisor"];
        for (wrong, right) in [
            ("qmeu", Some("qemu")),
            ("XEN", Some("xen")),
            ("cloudhypervisor", Some("cloud-hypervisor")),
            ("xen_legacy", Some("xen-legacy")),
            ("zzzzzz", None),
        ] {
            assert_eq!(nearest(wrong, &known), right, "{wrong}");
        }
        assert_eq!(nearest("x", &[]), None);
        assert!(hint("qmeu", &known).starts_with("did you mean \"qemu\"? There are: qemu, xen"));
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The known name that somebody who misspelt one probably meant.

/// Longest word for which a name is looked for, in characters.
const WORD_MAX: usize = 64;

/// The known name nearest to `word`, for messages of the form "did you mean".
///
/// Upper case counts as lower case and `_` as `-`. A name is near when at most a third of the
/// word's characters, and at least one, have to be changed, swapped, added or left out to get it;
/// failing that, when `word` is the beginning of no other name. Of equally near names the first
/// is taken. `None` if nothing is near.
///
/// ```
/// use precopy::policy::nearest;
///
/// let names = ["qemu", "xen", "xen-legacy"];
/// assert_eq!(nearest("qmeu", names), Some("qemu"));
/// assert_eq!(nearest("xen_lgacy", names), Some("xen-legacy"));
/// assert_eq!(nearest("firecracker", names), None);
/// ```
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.trim().to_ascii_lowercase().replace('_', "-");
    let word = plain(word);
    let length = word.chars().count();
    if length == 0 || length > WORD_MAX {
        return None;
    }
    let names: Vec<(&str, String)> = names.into_iter().map(|name| (name, plain(name))).collect();
    let near = names.iter().map(|(name, plain)| (strsim::osa_distance(&word, plain), *name));
    let near = near.filter(|(changes, _)| *changes <= (length / 3).max(1));
    if let Some((_, name)) = near.min_by_key(|(changes, _)| *changes) {
        return Some(name);
    }
    let mut longer = names.iter().filter(|(_, plain)| plain.starts_with(&word));
    let first = longer.next()?;
    longer.next().is_none().then_some(first.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = ["qemu", "xen", "xen-legacy", "nova", "kubevirt-stall", "itc"];

    #[test]
    fn near_names_are_found() {
        for (word, name) in [
            ("qemu", Some("qemu")),
            ("QEMU", Some("qemu")),
            ("qem", Some("qemu")),
            ("zen", Some("xen")),
            ("xen_legacy", Some("xen-legacy")),
            ("xenlegacy", Some("xen-legacy")),
            ("kubevirt", Some("kubevirt-stall")),
            ("kubvirt-stal", Some("kubevirt-stall")),
            ("xn", Some("xen")),
            ("icy", None),
            ("qexux", None),
            ("firecracker", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, NAMES), name, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(65), [&*"x".repeat(65)]), None, "too long to look for");
    }

    #[test]
    fn an_ambiguous_beginning_finds_nothing() {
        assert_eq!(nearest("kube", ["kubevirt-stall", "kubevirt-ramp"]), None);
    }
}

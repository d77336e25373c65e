// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Elements of HTML and SVG. Text and attributes are escaped here and nowhere else, so that
//! nothing can be forgotten.

use std::fmt::Write as _;

/// An element.
#[derive(Clone, Debug)]
pub(super) struct Node {
    tag: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Child>,
}

#[derive(Clone, Debug)]
enum Child {
    Node(Node),
    Text(String),
    /// Style, script, and data for the script: not escaped as text is.
    Raw(String),
}

/// An element without attributes or children.
pub(super) fn el(tag: &'static str) -> Node {
    Node { tag, attributes: Vec::new(), children: Vec::new() }
}

/// An element with a text.
pub(super) fn text_el(tag: &'static str, text: impl Into<String>) -> Node {
    el(tag).text(text)
}

/// Elements that have no end tag in HTML.
const VOID: [&str; 3] = ["meta", "link", "br"];

impl Node {
    /// With an attribute.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// With a number as attribute, to a hundredth.
    pub(super) fn at(self, name: &'static str, value: f64) -> Self {
        self.with(name, coordinate(value))
    }

    /// With a class.
    pub(super) fn class(self, value: impl Into<String>) -> Self {
        self.with("class", value)
    }

    /// With an element inside, after those that it has.
    pub(super) fn child(mut self, node: Self) -> Self {
        self.children.push(Child::Node(node));
        self
    }

    /// With several.
    pub(super) fn children(mut self, nodes: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(nodes.into_iter().map(Child::Node));
        self
    }

    /// Whether it is a cell with a number.
    pub(super) fn is_number(&self) -> bool {
        let starts = |value: &String| value.split(' ').next() == Some("number");
        self.attributes.iter().any(|(name, value)| *name == "class" && starts(value))
    }

    /// With text.
    pub(super) fn text(mut self, text: impl Into<String>) -> Self {
        self.children.push(Child::Text(text.into()));
        self
    }

    /// With style or script that is part of this program.
    pub(super) fn raw(mut self, text: &'static str) -> Self {
        self.children.push(Child::Raw(text.to_owned()));
        self
    }

    /// With data for a script, such as JSON: `<` cannot end the element.
    pub(super) fn json(mut self, text: &str) -> Self {
        self.children.push(Child::Raw(text.replace('<', "\\u003c")));
        self
    }

    /// Appends the element as text.
    pub(super) fn write(&self, out: &mut String) {
        let _ = write!(out, "<{}", self.tag);
        for (name, value) in &self.attributes {
            let _ = write!(out, " {name}=\"");
            escape(value, out);
            out.push('"');
        }
        out.push('>');
        if VOID.contains(&self.tag) {
            return;
        }
        for child in &self.children {
            match child {
                Child::Node(node) => node.write(out),
                Child::Text(text) => escape(text, out),
                Child::Raw(text) => out.push_str(text),
            }
        }
        let _ = write!(out, "</{}>", self.tag);
        if matches!(self.tag, "p" | "tr" | "section" | "svg" | "g" | "table" | "h2" | "figure") {
            out.push('\n');
        }
    }
}

/// A coordinate to a hundredth of a pixel, as short as it can be.
pub(super) fn coordinate(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    // No minus before a zero, and nothing but numbers in a drawing.
    if rounded == 0.0 || !rounded.is_finite() { "0".to_owned() } else { rounded.to_string() }
}

/// Text for between and inside tags. Characters that no document may hold become U+FFFD.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let mut out = String::new();
        let evil = "</td><script>alert(\"1\" & '2')</script>\u{0}";
        el("td").with("title", evil).text(evil).write(&mut out);
        assert_eq!(out.matches('<').count(), 2, "{out}");
        assert!(!out.contains('\u{0}'));
        assert!(out.contains("&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)"), "{out}");
    }

    #[test]
    fn data_cannot_end_its_script() {
        let mut out = String::new();
        el("script").json("[\"</script>\"]").write(&mut out);
        assert_eq!(out, "<script>[\"\\u003c/script>\"]</script>");
    }

    #[test]
    fn coordinates_are_short_and_finite() {
        assert_eq!(coordinate(12.345_678), "12.35");
        assert_eq!(coordinate(-0.001), "0");
        assert_eq!(coordinate(f64::NAN), "0");
        assert_eq!(coordinate(700.0), "700");
    }
}

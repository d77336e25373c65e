// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads the sources and fails on what the compiler does not forbid: imports against the grain,
//! clocks below the engine, over-long files and lines, limits that nobody uses.
//!
//! Each check is a function over sources, and each has a test in which it must find something.

use std::fs;
use std::path::Path;

/// What the modules of the library may import from one another. A module that is missing here is
/// a finding: whoever adds one decides where it belongs. `ARCHITECTURE.md` shows the same table.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // The ground: words, bounds, system calls.
    ("units", &[]),
    ("limits", &[]),
    ("rng", &[]),
    ("skipped", &[]),
    ("sync", &[]),
    ("sys", &["limits", "region", "units"]),
    ("region", &["limits", "units"]),
    ("bitmap", &["sync", "sys", "units"]),
    // Plain data, policies, and the traits at whose seams back-ends plug in.
    ("policy", &["bitmap", "limits", "units"]),
    ("trace", &["bitmap", "dirty", "limits", "policy", "rng", "units"]),
    ("encode", &["units"]),
    ("report", &["encode", "policy", "units"]),
    ("guest", &["report", "units"]),
    ("wire", &["encode", "limits", "region", "units"]),
    // Back-ends: never one another, never the session.
    ("memory", &["bitmap", "region", "sys", "units"]),
    ("dirty", &["bitmap", "limits", "region", "sys", "units"]),
    ("transport", &["limits", "sys", "units", "wire"]),
    // The state machines.
    ("session", &["bitmap", "limits", "policy", "region", "report", "units", "wire"]),
    // Where all of it meets: in real time, in virtual time, never in both.
    (
        "engine",
        &[
            "bitmap",
            "dirty",
            "encode",
            "guest",
            "limits",
            "memory",
            "policy",
            "region",
            "report",
            "session",
            "sys",
            "transport",
            "units",
            "wire",
        ],
    ),
    (
        "sim",
        &[
            "bitmap", "limits", "policy", "region", "report", "rng", "session", "trace", "units",
            "wire",
        ],
    ),
    (
        "fuzzing",
        &["bitmap", "encode", "limits", "policy", "region", "session", "trace", "units", "wire"],
    ),
];

/// Single files that join two back-ends, because that is their purpose.
const EXCEPTIONS: &[(&str, &str)] = &[
    // One VMM's memory and its dirty bitmap are one object in vm-memory.
    ("src/memory/vm_memory.rs", "dirty"),
    // Which encoder a session may use is what both sides' capabilities say.
    ("src/encode/kind.rs", "wire"),
];

/// Time, sockets and threads, and where they may be used.
const WORLDLY: &[&str] =
    &["Instant::now", "SystemTime", "UNIX_EPOCH", "std::net", "std::thread", "thread::spawn"];
const WORLDLY_HOMES: &[&str] = &["src/engine/", "src/transport/", "src/sys/"];

const LINE_MAX: usize = 100;
const FILE_MAX: usize = 500;
const HEADER: &str = "SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause";

struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), text: text.into() }
    }

    /// Whether the whole file serves tests.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or("");
        ["tests/", "/conformance/"].iter().any(|folder| self.path.contains(folder))
            || ["tests.rs", "test_child.rs", "conformance.rs"].iter().any(|end| name.ends_with(end))
    }

    fn is_library(&self) -> bool {
        self.path.starts_with("src/")
    }

    /// Numbered lines without the parts that only tests compile.
    fn untested_lines(&self) -> Vec<(usize, &str)> {
        let mut lines = Vec::new();
        let mut all = self.text.lines().zip(1..).peekable();
        while let Some((line, number)) = all.next() {
            if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
                // One item without a body, or everything up to the closing brace of the first
                // column.
                let mut one = false;
                while let Some((next, _)) = all.next_if(|(l, _)| !l.starts_with('}')) {
                    if next.ends_with(';') && !next.starts_with(' ') {
                        one = true;
                        break;
                    }
                }
                if !one {
                    all.next();
                }
                continue;
            }
            lines.push((number, line));
        }
        lines
    }

    /// The same without comments.
    fn code(&self) -> Vec<(usize, &str)> {
        let mut lines = self.untested_lines();
        for (_, line) in &mut lines {
            *line = line.split_once("// ").map_or(*line, |(code, _)| code);
        }
        lines.retain(|(_, line)| !line.trim_start().starts_with("//"));
        lines
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn collect(root: &Path, folder: &Path, into: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(root, &path, into);
        } else if name.ends_with(".rs") || name.ends_with(".sh") {
            let short = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            into.push(Source::new(&short, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for folder in ["src", "tools", "tests", "benches", "examples", "fuzz"] {
        collect(root, &root.join(folder), &mut all);
    }
    assert!(all.len() > 100, "only {} sources: run from the repository", all.len());
    all
}

fn rust(all: &[Source]) -> impl Iterator<Item = &Source> {
    all.iter().filter(|s| s.path.ends_with(".rs"))
}

/// Whether `word` stands in `line` as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(inside)
            && !line[at + word.len()..].chars().next().is_some_and(inside)
    })
}

fn words_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

fn layering(all: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in rust(all).filter(|s| s.is_library() && !s.is_test()) {
        let inner = source.path.trim_start_matches("src/");
        let module = inner.split(['/', '.']).next().unwrap_or("");
        if module == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            found.push(source.at(1, &format!("module {module} has no place in MAY_IMPORT")));
            continue;
        };
        for (number, line) in source.code() {
            for import in words_after(line, "crate::") {
                let known = MAY_IMPORT.iter().any(|(name, _)| *name == import);
                let excepted = EXCEPTIONS.contains(&(&source.path[..], import));
                if known && import != module && !allowed.contains(&import) && !excepted {
                    found.push(source.at(number, &format!("{module} imports {import}")));
                }
                if import.is_empty() {
                    // `use crate::{a, b}` would hide what is imported.
                    found.push(source.at(number, "imports from crate in a list"));
                }
            }
            if line.contains("super::super") {
                found.push(source.at(number, "imports by super::super instead of crate"));
            }
            if ["webvm", "precopy_cli"].iter().any(|tool| has_word(line, tool)) {
                found.push(source.at(number, "the library imports a tool"));
            }
        }
    }
    found
}

fn worldly(all: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in rust(all).filter(|s| s.is_library() && !s.is_test()) {
        if WORLDLY_HOMES.iter().any(|home| source.path.starts_with(home)) {
            continue;
        }
        for (number, line) in source.code() {
            for word in WORLDLY.iter().filter(|word| line.contains(*word)) {
                found.push(source.at(number, &format!("{word} below the engine")));
            }
        }
    }
    found
}

/// The library's `src/sys`, and that of a package under `tools`.
fn is_sys(path: &str) -> bool {
    let package = path.strip_prefix("tools/").and_then(|rest| Some(rest.split_once('/')?.1));
    package.unwrap_or(path).starts_with("src/sys/")
}

fn unsafe_code(all: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in rust(all).filter(|s| !is_sys(&s.path)) {
        // This file and the like may name it in a string.
        for (number, line) in source.code() {
            let code = line.split('"').step_by(2).collect::<String>();
            if has_word(&code, "unsafe") {
                found.push(source.at(number, "unsafe outside src/sys"));
            }
        }
    }
    found
}

fn sizes(all: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in rust(all) {
        for (line, number) in source.text.lines().zip(1..) {
            if line.chars().count() > LINE_MAX {
                found.push(source.at(number, &format!("longer than {LINE_MAX} columns")));
            }
        }
        let lines = source.untested_lines().len();
        let serves_tests = source.is_test() || source.path.starts_with("src/fuzzing/");
        if lines > FILE_MAX && !serves_tests {
            found.push(source.at(1, &format!("{lines} lines without tests, over {FILE_MAX}")));
        }
    }
    found
}

fn headers(all: &[Source]) -> Vec<String> {
    let missing = |s: &&Source| !s.text.lines().take(2).any(|line| line.contains(HEADER));
    all.iter().filter(missing).map(|s| s.at(1, "no SPDX header")).collect()
}

fn leftovers(all: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in rust(all).filter(|s| !s.is_test() && !s.path.starts_with("benches/")) {
        for (number, line) in source.code() {
            for word in [".unwrap()", "todo!", "unimplemented!", "dbg!"] {
                if line.contains(word) {
                    found.push(source.at(number, &format!("{word} outside tests")));
                }
            }
        }
    }
    found
}

fn unused_limits(all: &[Source]) -> Vec<String> {
    let Some(limits) = all.iter().find(|s| s.path == "src/limits.rs") else {
        return vec!["src/limits.rs is missing".to_owned()];
    };
    let others: Vec<_> = rust(all)
        .filter(|s| s.path != limits.path)
        .flat_map(|s| s.code().into_iter().map(|(_, line)| line))
        .collect();
    let mut found = Vec::new();
    for (number, line) in limits.code() {
        for name in words_after(line, "pub const ").filter(|name| !name.is_empty()) {
            if !others.iter().any(|line| has_word(line, name)) {
                found.push(limits.at(number, &format!("nobody uses {name}")));
            }
        }
    }
    found
}

fn undocumented(all: &[Source]) -> Vec<String> {
    let documented = |source: &Source| {
        let mut lines = source.text.lines().skip(1);
        lines.find(|line| !line.starts_with("#![")).is_some_and(|line| line.starts_with("//!"))
    };
    // Modules that only tests compile say by their name what they are.
    let silent = |s: &&Source| !s.is_test() && !documented(s);
    rust(all).filter(silent).map(|s| s.at(1, "no //! line says what the module is for")).collect()
}

#[track_caller]
fn clean(found: &[String]) {
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

/// The check finds something in `text` as the file `path`, and nothing once `bad` is taken out.
#[track_caller]
fn finds(check: fn(&[Source]) -> Vec<String>, path: &str, text: &str, bad: &str) {
    assert!(!check(&[Source::new(path, text)]).is_empty(), "{bad} was not found");
    clean(&check(&[Source::new(path, text.replace(bad, ""))]));
}

#[test]
fn imports_follow_the_layers() {
    clean(&layering(&sources()));
}

#[test]
fn time_sockets_and_threads_stay_in_the_engine() {
    clean(&worldly(&sources()));
}

#[test]
fn unsafe_stays_in_sys() {
    clean(&unsafe_code(&sources()));
}

#[test]
fn files_and_lines_are_short() {
    clean(&sizes(&sources()));
}

#[test]
fn every_file_names_its_licence() {
    clean(&headers(&sources()));
}

#[test]
fn nothing_is_left_over() {
    clean(&leftovers(&sources()));
}

#[test]
fn every_limit_is_used() {
    clean(&unused_limits(&sources()));
}

#[test]
fn every_module_says_what_it_is_for() {
    clean(&undocumented(&sources()));
}

#[test]
fn the_architecture_shows_the_same_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for (module, imports) in MAY_IMPORT {
        let imports = if imports.is_empty() { "nothing".into() } else { imports.join(", ") };
        let row = format!("| `{module}` | {imports} |");
        assert!(text.contains(&row), "ARCHITECTURE.md lacks the row\n{row}");
    }
}

#[test]
fn every_check_can_fail() {
    let use_of = |module: &str| format!("use crate::{module}::X;\n");
    finds(layering, "src/units.rs", &use_of("limits"), "crate::limits");
    finds(layering, "src/dirty/marked.rs", &use_of("memory"), "crate::memory");
    finds(layering, "src/transport/tcp.rs", &use_of("session"), "crate::session");
    finds(layering, "src/engine/mod.rs", &use_of("sim"), "crate::sim");
    finds(layering, "src/sim/pair.rs", &use_of("engine"), "crate::engine");
    finds(layering, "src/session/gate.rs", "use crate::{units};\n", "crate::");
    finds(layering, "src/wire/tls/x.rs", "use super::super::X;\n", "super::super");
    finds(layering, "src/guest.rs", "use webvm::Vm;\n", "webvm");
    assert_eq!(layering(&[Source::new("src/newcomer.rs", "")]).len(), 1);
    finds(worldly, "src/session/meter.rs", "let now = Instant::now();\n", "Instant::now()");
    finds(worldly, "src/policy/xen.rs", "use std::net::X;\n", "std::net");
    finds(unsafe_code, "src/memory/mod.rs", "fn f() { unsafe { g() } }\n", "unsafe");
    finds(unsafe_code, "tools/src/sys/x.rs", "unsafe\n", "unsafe");
    finds(unsafe_code, "tools/capi/src/system.rs", "unsafe\n", "unsafe");
    clean(&unsafe_code(&[Source::new("tools/capi/src/sys/x.rs", "unsafe\n")]));
    finds(sizes, "src/lib.rs", &"x".repeat(101), "x");
    finds(sizes, "src/lib.rs", &"//\n".repeat(501), "//\n");
    finds(leftovers, "src/lib.rs", "fn f() { todo!() }\n", "todo!()");
    finds(leftovers, "tools/cli/src/main.rs", "fn f() { g().unwrap() }\n", ".unwrap()");
    assert_eq!(headers(&[Source::new("src/lib.rs", "//! Text.\n")]).len(), 1);
    assert_eq!(undocumented(&[Source::new("src/lib.rs", "// x\nfn f() {}\n")]).len(), 1);
    let limit = Source::new("src/limits.rs", "pub const A_MAX: u8 = 1;\n");
    let comment = Source::new("src/wire/mod.rs", "// A_MAX\n");
    assert_eq!(unused_limits(&[limit, comment]).len(), 1);
}

#[test]
fn parts_that_only_tests_compile_are_left_out() {
    let text = "a\n#[cfg(test)]\nmod tests;\nb\n#[cfg(all(test, not(loom)))]\n\
                mod more {\n    x.unwrap();\n}\nc\n";
    let source = Source::new("src/lib.rs", text);
    let left: Vec<_> = source.untested_lines().into_iter().map(|(_, line)| line).collect();
    assert_eq!(left, ["a", "b", "c"]);
}

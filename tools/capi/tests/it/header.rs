// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The committed header is the one that the sources make.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// What C programs see, in the order of the header.
const SOURCES: [&str; 5] = [
    "types.rs",
    "exports/general.rs",
    "exports/memory.rs",
    "exports/source.rs",
    "exports/destination.rs",
];

fn generate() -> String {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(package.join("src/sys").join(source));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include/precopy.h")
}

/// With `PRECOPY_WRITE_HEADER=1` it writes the header instead.
#[test]
fn the_header_is_the_one_that_the_sources_make() {
    let fresh = generate();
    if env::var_os("PRECOPY_WRITE_HEADER").is_some() {
        fs::write(committed(), &fresh).unwrap();
    }
    let old = fs::read_to_string(committed()).unwrap_or_default();
    let differs = old.lines().zip(fresh.lines()).position(|(old, fresh)| old != fresh);
    assert!(
        old == fresh,
        "include/precopy.h is not what src/sys makes, from line {:?} on; make it anew with\n  \
         PRECOPY_WRITE_HEADER=1 cargo test -p precopy-capi --test it header",
        differs.map(|line| line + 1)
    );
}

/// Every function, with its text; and no layout or name of Rust's.
#[test]
fn the_header_has_everything() {
    let header = generate();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut functions = 0;
    for source in SOURCES {
        let text = fs::read_to_string(package.join("src/sys").join(source)).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once("extern \"C\" fn "));
        for (_, rest) in lines.filter(|(before, _)| before.starts_with("pub")) {
            let name = rest.split('(').next().unwrap();
            assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
            functions += 1;
        }
    }
    assert!(functions > 20, "only {functions} functions were found");
    let threads = header.matches("Threads: ").count();
    assert_eq!(threads, functions, "each function says which threads may call it");
    for rust in ["Option<", "usize", "uintptr_t", "Result<", "&mut"] {
        assert!(!header.contains(rust), "{rust} is in the header");
    }
}

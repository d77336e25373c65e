// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! C programs against the installed library: the example, and everything that goes wrong; linked
//! both ways, under valgrind, and with the sanitizers of the C compiler.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::build::{Installed, Link, has, installed, package, run};

const EXAMPLE: &str = "examples/migrate.c";
const ERRORS: &str = "tests/c/errors.c";
const VALGRIND: [&str; 7] = [
    "valgrind",
    "--quiet",
    "--leak-check=full",
    "--show-leak-kinds=definite,possible",
    "--error-exitcode=9",
    "--fair-sched=yes",
    concat!("--suppressions=", env!("CARGO_MANIFEST_DIR"), "/tests/c/valgrind.supp"),
];
const SANITIZE: [&str; 2] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

const USES_HEADER: &str = "#include <precopy.h>\n\
    int main(void) { return precopy_abi_version() != PRECOPY_ABI_VERSION; }\n";

/// Whether the kernel's record can be had here; says so if not.
fn has_kernel_tracking() -> bool {
    use precopy::{dirty, memory, region, units};
    let table = region::RegionTable::single(units::PageSize::BASE, 1).unwrap();
    let memory = memory::MappedMemory::new(table, memory::MapOptions::default()).unwrap();
    let found = dirty::tracker_by_name(memory.host(), "pagemap");
    if let Err(why) = &found {
        precopy::skipped(format_args!("{why}"));
    }
    found.is_ok()
}

/// Runs the example and reads what it says.
fn migrate(installed: &Installed, under: &[&str], program: &Path, arguments: &[&str]) {
    let output = installed.run(under, program, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |word: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(word));
        found.unwrap_or_else(|| panic!("no {word} in {text}"))
    };
    let source: serde_json::Value = serde_json::from_str(line("source ")).unwrap();
    let destination: serde_json::Value = serde_json::from_str(line("destination ")).unwrap();
    assert_eq!(source["outcome"], "handed_over");
    assert_eq!((&source["encoder"], &source["channels"]), (&"lz4".into(), &2.into()));
    assert_eq!((&source["verified"], &destination["may_run"]), (&true.into(), &"yes".into()));
    assert_eq!(source["migration_id"], destination["migration_id"]);
    let tracker = source["tracker"].as_str().unwrap();
    let wanted = match arguments.first() {
        Some(&"kernel") => "pagemap",
        Some(name) => name,
        None => "",
    };
    assert!(tracker.starts_with(wanted), "{tracker}");
    let audit = line("audit ");
    assert!(audit.starts_with("0 wrong pages") && !audit.contains(" 0 of them"), "{audit}");
}

#[test]
fn the_example_migrates_with_every_kind_of_tracking() {
    let Some(installed) = installed() else { return };
    let program = installed.compile(EXAMPLE, Link::Shared, &[]);
    for tracking in ["marked", "callback", "kernel"] {
        if tracking == "kernel" && !has_kernel_tracking() {
            continue;
        }
        migrate(&installed, &[], &program, &[tracking]);
        migrate(&installed, &[], &program, &[tracking, "memfd"]);
    }
    let program = installed.compile(EXAMPLE, Link::Static, &[]);
    migrate(&installed, &[], &program, &["marked"]);
}

#[test]
fn everything_that_goes_wrong_is_an_error() {
    let Some(installed) = installed() else { return };
    let program = installed.compile(ERRORS, Link::Shared, &[]);
    let output = installed.run(&[], &program, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 15, "{text}");
}

#[test]
fn valgrind_finds_nothing() {
    let Some(installed) = installed().filter(|_| has("valgrind")) else { return };
    let example = installed.compile(EXAMPLE, Link::Shared, &[]);
    // valgrind does not know userfaultfd.
    migrate(&installed, &VALGRIND, &example, &["marked", "small"]);
    let errors = installed.compile(ERRORS, Link::Shared, &[]);
    installed.run(&VALGRIND, &errors, &[]);
}

/// Without this the test above could pass because valgrind sees nothing.
#[test]
fn valgrind_would_find_a_leak() {
    let Some(installed) = installed().filter(|_| has("valgrind")) else { return };
    let program = installed.compile("tests/c/leak.c", Link::Shared, &[]);
    let mut command = Command::new(VALGRIND[0]);
    command.args(&VALGRIND[1..]).arg(program);
    command.env("LD_LIBRARY_PATH", installed.library(""));
    assert_eq!(command.output().unwrap().status.code(), Some(9));
}

#[test]
fn the_sanitizers_find_nothing() {
    let Some(installed) = installed() else { return };
    for (source, arguments) in [(EXAMPLE, &["callback", "memfd", "small"][..]), (ERRORS, &[])] {
        let program = installed.compile(source, Link::Shared, &SANITIZE);
        installed.run(&[], &program, arguments);
    }
}

/// The header alone, in both languages and older dialects of them.
#[test]
fn the_header_compiles_as_c_and_as_cpp() {
    let Some(installed) = installed() else { return };
    let folder = tempfile::tempdir().unwrap();
    let check = |compiler: &str, name: &str, dialect: &str| {
        let source = folder.path().join(name);
        fs::write(&source, USES_HEADER).unwrap();
        let mut command = Command::new(compiler);
        command.arg(dialect).args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        command.args(installed.pkg_config(&["--cflags"])).arg(&source).arg("-o");
        command.arg(folder.path().join("out")).args(installed.pkg_config(&["--libs"]));
        run(&mut command);
        installed.run(&[], &folder.path().join("out"), &[]);
    };
    check("cc", "header.c", "-std=c99");
    check("cc", "header.c", "-std=c2x");
    if has("c++") {
        check("c++", "header.cpp", "-std=c++11");
        check("c++", "header.cpp", "-std=c++20");
    }
}

/// The shared library: its soname, and no symbol but the API's.
#[test]
fn the_library_exports_the_interface_and_nothing_else() {
    let Some(installed) = installed().filter(|_| has("nm") && has("readelf")) else { return };
    let library = installed.library("libprecopy.so");
    let mut readelf = Command::new("readelf");
    let dynamic = run(readelf.arg("-d").arg(&library)).stdout;
    assert!(String::from_utf8_lossy(&dynamic).contains("[libprecopy.so.0]"));
    let mut nm = Command::new("nm");
    let symbols = run(nm.args(["-D", "--defined-only"]).arg(&library)).stdout;
    let header = fs::read_to_string(package().join("include/precopy.h")).unwrap();
    let mut functions = 0;
    for line in String::from_utf8(symbols).unwrap().lines() {
        let name = line.split_whitespace().last().unwrap();
        assert!(header.contains(&format!("{name}(")), "{name} is exported, and not in the header");
        functions += 1;
    }
    assert!(functions > 20, "{functions}");
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Installs the library into a temporary folder, and builds and runs C programs against it, as
//! somebody would who has nothing but the installation.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

/// How C is compiled: warnings are errors.
const STRICT: [&str; 9] = [
    "-std=c11",
    "-O1",
    "-g",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wno-missing-field-initializers",
    "-Werror",
];

/// Longest time for one program, in seconds.
const PATIENCE_S: u32 = 300;

/// Which library a program is linked with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    Shared,
    Static,
}

/// An installation.
pub(crate) struct Installed {
    folder: TempDir,
    /// Programs that were compiled against it.
    programs: AtomicU32,
}

pub(crate) fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether there is a program; says so if not.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        precopy::skipped(format_args!("there is no {program}: tools/ci/setup.sh installs it"));
    }
    found
}

/// The installation that tests share; `None` if there is no compiler or no pkg-config. It goes
/// with the last test that has it: what a static holds would stay on the disk.
pub(crate) fn installed() -> Option<Arc<Installed>> {
    static SHARED: Mutex<Weak<Installed>> = Mutex::new(Weak::new());
    if !(has("cc") && has("pkg-config")) {
        return None;
    }
    // A test that could not install it does not keep others from trying.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let installed = shared.upgrade().unwrap_or_else(|| Arc::new(Installed::new()));
    *shared = Arc::downgrade(&installed);
    Some(installed)
}

impl Installed {
    fn new() -> Self {
        // Cargo has put the libraries where this test is.
        let own = env::current_exe().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut install = Command::new(package().join("install.sh"));
        install.arg("--from").arg(own.parent().unwrap()).arg(folder.path().join("prefix"));
        run(&mut install);
        Self { folder, programs: AtomicU32::new(0) }
    }

    fn prefix(&self) -> PathBuf {
        self.folder.path().join("prefix")
    }

    pub(crate) fn library(&self, name: &str) -> PathBuf {
        self.prefix().join("lib").join(name)
    }

    /// What pkg-config says.
    pub(crate) fn pkg_config(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.args(arguments).arg("precopy");
        command.env("PKG_CONFIG_PATH", self.prefix().join("lib/pkgconfig"));
        let said = String::from_utf8(run(&mut command).stdout).unwrap();
        said.split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles a program of this package. It has a file of its own: tests run side by side, and
    /// what one of them runs another's linker must not write.
    pub(crate) fn compile(&self, source: &str, link: Link, extra: &[&str]) -> PathBuf {
        let stem = Path::new(source).file_stem().unwrap().to_string_lossy().into_owned();
        let number = self.programs.fetch_add(1, Ordering::Relaxed);
        let program = self.folder.path().join(format!("{stem}-{number}"));
        let libs = match link {
            Link::Shared => self.pkg_config(&["--libs"]),
            // The linker takes a shared library where it finds both.
            Link::Static => self
                .pkg_config(&["--static", "--libs"])
                .into_iter()
                .map(|word| word.replace("-lprecopy", "-l:libprecopy.a"))
                .collect(),
        };
        let mut cc = Command::new("cc");
        cc.args(STRICT).args(extra).args(self.pkg_config(&["--cflags"]));
        cc.arg(package().join(source)).arg("-o").arg(&program).args(libs);
        run(&mut cc);
        program
    }

    /// Runs a program, perhaps under another one, within a time limit.
    pub(crate) fn run(&self, under: &[&str], program: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE_S.to_string()).args(under).arg(program).args(arguments);
        command.env("LD_LIBRARY_PATH", self.prefix().join("lib"));
        run(&mut command)
    }
}

/// Runs a command that must succeed.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{:?} cannot be run: {error}", command.get_program());
    });
    assert!(
        output.status.success(),
        "{:?} {:?} ended with {}\n{}{}",
        command.get_program(),
        command.get_args().collect::<Vec<&OsStr>>(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A QEMU with the counting guest of `tools/qemu/guest` or with another one, and what the host can
//! see of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use qemu::qmp::Qmp;
use serde_json::{Value, json};

use crate::support::wait_for;

/// Longest wait for something that takes milliseconds on a quiet machine; seconds under nested
/// KVM.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
const PAGE: u64 = 4096;
/// Where `counters.s` puts what the host may look at.
const INFO: u64 = 0x20_0000;
/// Where it counts the pages that it has written, in 64 bits.
pub(crate) const BEATS: u64 = INFO + 24;

/// Whether there is a QEMU here; says so loudly if not.
pub(crate) fn there_is_a_qemu() -> bool {
    let found = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if !found {
        precopy::skipped("there is no qemu-system-x86_64 (package qemu-system-x86)");
    }
    found
}

/// Whether KVM can be used here; says so loudly if not.
pub(crate) fn there_is_kvm() -> bool {
    let found = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !found {
        precopy::skipped("/dev/kvm cannot be opened: no migration under KVM was tried");
    }
    found
}

/// The guest's image, built once.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let image = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("counters-{}.elf", std::process::id()));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../qemu/guest/build.sh");
        assert!(Command::new(script).arg(&image).status().unwrap().success());
        image
    })
}

/// How to start one.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) mib: u64,
    pub(crate) accel: String,
    pub(crate) machine: &'static str,
    /// Words for the guest.
    pub(crate) append: String,
    /// How the machine's RAM is made; `FILE` and `SIZE` are replaced.
    pub(crate) backend: &'static str,
    pub(crate) more: Vec<String>,
    /// What is booted instead of the counting guest.
    pub(crate) kernel: Option<PathBuf>,
    /// What QEMU is started by: a program that becomes QEMU, and its arguments.
    pub(crate) by: Vec<String>,
}

impl Spec {
    pub(crate) fn new(mib: u64) -> Self {
        Self {
            mib,
            accel: "tcg".to_owned(),
            machine: "q35",
            append: String::new(),
            backend: "memory-backend-file,id=ram,mem-path=FILE,share=on,size=SIZE",
            more: Vec::new(),
            kernel: None,
            by: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().map(|word| (*word).to_owned()));
        self
    }

    pub(crate) fn incoming(self) -> Self {
        self.with(&["-incoming", "defer"])
    }
}

/// What the guest says about itself in its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Info {
    first: u64,
    pages: u64,
    pub(crate) sweeps: u32,
    position: u64,
    pub(crate) beats: u64,
    pub(crate) ticks: u32,
    pub(crate) faults: u32,
    pub(crate) checks: u32,
}

/// A running QEMU; ended at the drop.
pub(crate) struct Vm {
    child: Child,
    name: PathBuf,
    ram: Option<File>,
    serial: UnixStream,
    lines: Receiver<String>,
    control: Qmp,
}

impl Vm {
    pub(crate) fn start(spec: &Spec) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("/dev/shm/precopy-test-{}-{number}", std::process::id());
        let name = PathBuf::from(name);
        let with = |end: &str| name.with_extension(end);
        let file = with("ram");
        let socket = |end| format!("unix:{},server=on,wait=off", with(end).display());
        let backend = spec
            .backend
            .replace("FILE", file.to_str().unwrap())
            .replace("SIZE", &format!("{}M", spec.mib));
        let ram = backend.contains("mem-path").then(|| {
            let options =
                File::options().read(true).write(true).create(true).truncate(true).open(&file);
            let ram = options.unwrap();
            ram.set_len(spec.mib << 20).unwrap();
            ram
        });
        let by = [&spec.by[..], &["qemu-system-x86_64".to_owned()]].concat();
        let child = Command::new(&by[0])
            .args(&by[1..])
            .args(["-nodefaults", "-display", "none", "-m", &spec.mib.to_string()])
            .arg("-machine")
            .arg(format!("{},accel={},memory-backend=ram", spec.machine, spec.accel))
            .args(["-object", &backend, "-append", &spec.append, "-kernel"])
            .arg(spec.kernel.as_deref().unwrap_or_else(|| image()))
            .args(["-qmp", &socket("qmp"), "-qmp", &socket("control"), "-serial", &socket("tty")])
            .args(&spec.more)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let serial = wait_for("a serial line", || UnixStream::connect(with("tty")).ok());
        let lines = lines(serial.try_clone().unwrap());
        let control = wait_for("QEMU's control socket", || Qmp::connect(&with("control")).ok());
        Self { child, name, ram, serial, lines, control }
    }

    /// A guest that has begun to count.
    pub(crate) fn running(spec: &Spec) -> Self {
        let mut vm = Self::start(spec);
        wait_for("a first sweep", || (vm.info().sweeps > 0).then_some(()));
        assert_eq!(vm.status(), "running");
        vm
    }

    /// The socket for the program under test.
    pub(crate) fn socket(&self) -> String {
        self.name.with_extension("qmp").to_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its run state; `gone` if it has ended.
    pub(crate) fn status(&mut self) -> String {
        match self.control.execute_within("query-status", Value::Null, PATIENCE) {
            Ok(status) => status["status"].as_str().unwrap().to_owned(),
            Err(_) => "gone".to_owned(),
        }
    }

    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Value {
        self.control.execute_within(command, arguments, PATIENCE).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether its RAM is registered with a userfaultfd for write protection (`uw` in
    /// proc_pid_smaps(5)).
    pub(crate) fn is_write_protected(&self) -> bool {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", self.pid()));
        let smaps = smaps.unwrap_or_default();
        smaps.lines().any(|line| line.starts_with("VmFlags:") && line.contains(" uw"))
    }

    fn ram(&self) -> &File {
        self.ram.as_ref().expect("RAM in a file")
    }

    /// Its RAM, once more.
    pub(crate) fn ram_file(&self) -> File {
        self.ram().try_clone().unwrap()
    }

    pub(crate) fn info(&self) -> Info {
        let mut bytes = [0; 48];
        self.ram().read_exact_at(&mut bytes, INFO).unwrap();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        Info {
            first: word(8).into(),
            pages: word(12).into(),
            sweeps: word(16),
            position: word(20).into(),
            beats: u64::from(word(24)) | u64::from(word(28)) << 32,
            ticks: word(32),
            faults: word(36),
            checks: word(44),
        }
    }

    /// Checks every page of the working set of a guest that stands still: counts fall at most
    /// once, by one, where the guest is; each page has its own number.
    pub(crate) fn check_pages(&self) {
        let info = self.info();
        assert!(info.pages > 0, "{info:?}");
        let mut page = [0; 4096];
        let (mut drops, mut last) = (0, None::<u32>);
        for index in 0..info.pages {
            self.ram().read_exact_at(&mut page, (info.first + index) * PAGE).unwrap();
            let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
            let (count, number, again) = (word(0), word(4), word(4092));
            if let Some(last) = last.filter(|last| *last != count) {
                assert_eq!(last, count + 1, "page {index}: {info:?}");
                drops += 1;
            }
            // A vCPU that was stopped between two stores has one of them to do.
            if index != info.position {
                assert_eq!(again, count, "page {index} is torn: {info:?}");
                assert!(count == 0 || u64::from(number) == index, "page {index} is {number}");
            }
            last = Some(count);
        }
        assert!(drops <= 1, "{drops} drops: {info:?}");
        assert_eq!(info.faults, 0, "the guest found faults itself");
    }

    /// Proves that the guest runs here: it writes, its clock ticks, it answers on its serial line,
    /// it finds all of its pages right, and so does the host.
    pub(crate) fn prove_that_it_runs(&mut self) {
        assert_eq!(self.status(), "running");
        let before = self.info();
        while self.lines.try_recv().is_ok() {}
        self.serial.write_all(b"!").unwrap();
        self.line(|line| line == "answer=33");
        self.line(|line| line.starts_with("ticks="));
        // The tick of that line may have come just before the first look.
        wait_for("a guest that goes on", || {
            let after = self.info();
            let ticks = after.ticks > before.ticks && after.checks > before.checks;
            (ticks && after.beats > before.beats).then_some(())
        });
        self.execute("stop", Value::Null);
        self.check_pages();
        self.execute("cont", Value::Null);
    }

    /// Whether it stands still.
    pub(crate) fn stands_still(&self) -> bool {
        let before = self.info().beats;
        thread::sleep(Duration::from_millis(100));
        self.info().beats == before
    }

    /// Waits for a line on the serial line.
    pub(crate) fn line(&self, wanted: impl Fn(&str) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("a line on the serial line");
            let bad = (line.starts_with("ticks=") && !line.ends_with(" faults=0 tsc=on"))
                || line.contains("STUCK");
            assert!(!bad, "{line}");
            if wanted(&line) {
                return;
            }
        }
    }

    /// Whether a capability of QEMU's own migration is on.
    pub(crate) fn has_capability(&mut self, name: &str) -> bool {
        let all = self.execute("query-migrate-capabilities", Value::Null);
        let all = all.as_array().unwrap();
        all.iter().any(|c| c["capability"] == name && c["state"] == true)
    }

    /// Sets capabilities of QEMU's own migration.
    pub(crate) fn capability(&mut self, name: &str, state: bool) {
        let list = json!([{ "capability": name, "state": state }]);
        self.execute("migrate-set-capabilities", json!({ "capabilities": list }));
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Gone already is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for end in ["ram", "qmp", "control", "tty"] {
            let _ = std::fs::remove_file(self.name.with_extension(end));
        }
    }
}

/// Reads lines in a thread that ends with the connection.
fn lines(from: UnixStream) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            if sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

//! Feeds mutated PTX and CASE files to the parser, the simulator and the checker, for as long as it is told:
//!
//! ```text
//! cargo run --release -p ptxsim --example fuzz -- --seconds 600 --seed 1
//! ```
//!
//! Each round takes one of the files of `tests/kernels/ptx` or one of the case files below, edits it (bytes flipped, tokens
//! and lines swapped, copied or taken out, numbers changed, the end cut off), and runs all that parses. Every round must end
//! in a clear error or a run: a panic, a round of more than 20 seconds, or more than 6 GiB of memory ends the program with
//! code 1, and the input lies in `fuzz-failure.txt` in the present folder.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use ptxsim::{Case, CaseOptions, LaunchConfig, Loaded, Memory, Module, launch};

#[derive(Parser)]
struct Arguments {
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the sequence of edits begins
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Seconds that one round may take, and bytes that the process may have.
const ROUND_LIMIT: u64 = 20;
const MEMORY_LIMIT: u64 = 6 << 30;
/// Device memory of a round.
const DEVICE_BYTES: u64 = 1 << 24;

const CASES: [&str; 3] = [
    "ptx = \"reduce.ptx\"\nkernel = \"reduce_shuffle_f32\"\ngrid = [5, 1, 1]\nblock = 256\nthreads = 1\ninstruction_limit = 20000\nlaunch_limit = 2000000\n\
     args = [\"x\", \"partial\", { s32 = 1001 }]\n[[buffer]]\nname = \"x\"\ndtype = \"f32\"\nlength = 1001\nfill = \"normal\"\n\
     mean = 0.5\nstd = 2.0\nseed = 3\n[[buffer]]\nname = \"partial\"\ndtype = \"f32\"\nlength = 5\nfill = \"poison\"\n",
    "ptx = \"histogram.ptx\"\ngrid = 2\nblock = [64]\ndynamic_shared = 1024\nchip = \"A100\"\nshuffle = 7\ninstruction_limit = 20000\nlaunch_limit = 2000000\n\
     args = [\"x\", { buffer = \"y\", offset = 4 }, { u64 = \"18446744073709551615\" }, { bytes = [1, 2, 3, 4] }]\n\
     [[buffer]]\nname = \"x\"\ndtype = \"s32\"\nlength = 64\nfill = \"uniform\"\nlow = -4\nhigh = 9\n\
     [[buffer]]\nname = \"y\"\ndtype = \"u64\"\nfill = \"list\"\nvalues = [1, 2, \"18446744073709551615\"]\n",
    "ptx = \"functions.ptx\"\nkernel = \"recursion\"\ngrid = 1\nblock = 64\nthreads = 2\ncheck = true\nregisters = 40\n\
     instruction_limit = 20000\nlaunch_limit = 2000000\nargs = [\"y\"]\n[[buffer]]\nname = \"y\"\ndtype = \"bf16\"\nlength = 128\nfill = \"iota\"\n\
     start = -1.5\nstep = 0.25\n",
];

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }
}

/// Splits into words and single other characters, so that joined they are the text again.
fn tokens(text: &str) -> Vec<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '%' | '$' | '.');
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..end]);
        rest = &rest[end..];
    }
    tokens
}

const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "16",
    "31",
    "32",
    "255",
    "65536",
    "4294967295",
    "-1",
    "18446744073709551615",
    "99999999999999999999",
];

/// One edit at token level, or one of bytes.
fn edit(text: &str, numbers: &mut Numbers) -> String {
    let kind = numbers.below(9);
    if kind < 2 {
        let mut bytes = text.as_bytes().to_vec();
        let at = numbers.below(bytes.len());
        match (kind, bytes.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << numbers.below(8),
            _ => bytes.truncate(at),
        }
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    if kind == 2 {
        let mut lines: Vec<&str> = text.lines().collect();
        let (a, b) = (numbers.below(lines.len()), numbers.below(lines.len()));
        if lines.is_empty() {
            return String::new();
        }
        match numbers.below(3) {
            0 => lines.swap(a, b),
            1 => drop(lines.remove(a)),
            _ => lines.insert(a, lines[b]),
        }
        return lines.join("\n");
    }
    let mut list = tokens(text);
    if list.is_empty() {
        return String::new();
    }
    let (a, b) = (numbers.below(list.len()), numbers.below(list.len()));
    match kind {
        3 => list.swap(a, b),
        4 => drop(list.remove(a)),
        5 => list.insert(a, list[b]),
        6 => list[a] = list[b],
        // A number becomes another; registers and types are words of their own and change by the edits above.
        _ => {
            let is_number = |token: &&str| token.starts_with(|c: char| c.is_ascii_digit());
            let found = (a..list.len()).find(|at| is_number(&list[*at]));
            list[found.unwrap_or(a)] = NUMBERS[numbers.below(NUMBERS.len())];
        }
    }
    list.concat()
}

fn mutate(text: &str, numbers: &mut Numbers) -> String {
    let mut text = text.to_owned();
    for _ in 0..1 + numbers.below(3) {
        text = edit(&text, numbers);
    }
    text
}

/// What became of the rounds.
#[derive(Default)]
struct Outcomes {
    refused: u64,
    parsed: u64,
    launches: u64,
    stopped: u64,
    findings: u64,
}

/// Parses PTX and launches its first kernels on buffers that every argument points to.
fn run_ptx(ptx: &str, numbers: &mut Numbers, outcomes: &mut Outcomes) {
    let Ok(module) = Module::parse("fuzz.ptx", ptx) else {
        outcomes.refused += 1;
        return;
    };
    outcomes.parsed += 1;
    let module = Arc::new(module);
    let memory = Memory::new(DEVICE_BYTES);
    let Ok(loaded) = Loaded::new(Arc::clone(&module), &memory) else {
        return;
    };
    let Ok(buffer) = memory.alloc(1 << 14, "buffer") else {
        return;
    };
    // Half of it counts as never written.
    if memory.write(buffer, &vec![1; 1 << 13]).is_err() {
        return;
    }
    let names: Vec<&str> = module
        .kernels()
        .map(|kernel| kernel.name.as_str())
        .collect();
    for _ in 0..names.len().min(3) {
        let name = names[numbers.below(names.len())];
        let Some(kernel) = module.kernel(name) else {
            continue;
        };
        let mut params = vec![0; kernel.param_bytes as usize];
        for param in &kernel.params {
            let value = match param.size {
                8 => buffer + 64 * numbers.below(8) as u64,
                _ => numbers.below(100) as u64,
            };
            let size = param.size.min(8) as usize;
            params[param.offset as usize..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        let config = LaunchConfig {
            params,
            dynamic_shared: 1024 * numbers.below(40) as u32,
            instruction_limit: 3000,
            launch_limit: 1_000_000,
            threads: 1 + numbers.below(2),
            shuffle: (numbers.below(2) == 0).then_some(numbers.below(100) as u64),
            ..LaunchConfig::new(
                [1 + numbers.below(4) as u32, 1, 1],
                [[32, 48, 64, 128, 256][numbers.below(5)], 1, 1],
            )
        };
        outcomes.launches += 1;
        match launch(&loaded, name, &config, &memory) {
            Ok(report) => outcomes.findings += u64::from(!report.findings.is_empty()),
            Err(_) => outcomes.stopped += 1,
        }
    }
}

fn run_case(folder: &Path, text: &str, outcomes: &mut Outcomes) {
    // Without its limit a case may run as long as it says.
    if !text.contains("launch_limit = 2000000") {
        return;
    }
    // Paths out of the folder are the host's own files, which are not to be written to.
    if text.contains("output") || text.contains("..") || text.contains("\"/") {
        return;
    }
    let Ok(case) = Case::parse(&folder.join("case.toml"), text) else {
        outcomes.refused += 1;
        return;
    };
    outcomes.parsed += 1;
    let options = CaseOptions {
        buffer_limit: Some(DEVICE_BYTES),
        ..CaseOptions::default()
    };
    match case.run(&options) {
        Ok(report) => {
            outcomes.launches += 1;
            outcomes.findings += u64::from(!report.findings.is_empty());
        }
        Err(_) => outcomes.stopped += 1,
    }
}

/// Resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    pages.unwrap_or(0u64) * 4096
}

/// What runs, for whoever has to tell about it.
struct Watch {
    /// Milliseconds from the start to the round's begin.
    began: AtomicU64,
    round: AtomicU64,
    input: Mutex<String>,
}

impl Watch {
    fn fail(&self, why: &str) -> ExitCode {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let round = self.round.load(Relaxed);
        eprintln!("round {round}: {why}; the input is in fuzz-failure.txt");
        if let Err(error) = std::fs::write("fuzz-failure.txt", &*input) {
            eprintln!("fuzz-failure.txt: {error}");
        }
        ExitCode::FAILURE
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/ptx");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|end| end == "ptx") {
            match std::fs::read_to_string(entry.path()) {
                Ok(text) => files.push((entry.path(), text)),
                Err(error) => eprintln!("{}: {error}", entry.path().display()),
            }
        }
    }
    files.sort();
    let scratch = std::env::temp_dir().join(format!("ptxsim-fuzz-{}", std::process::id()));
    let copied = std::fs::create_dir_all(&scratch).and_then(|()| {
        files.iter().try_for_each(|(path, text)| {
            let name = path.file_name().unwrap_or_default();
            std::fs::write(scratch.join(name), text)
        })
    });
    if files.is_empty() || copied.is_err() {
        eprintln!(
            "error: no PTX in {}, or no temporary folder",
            folder.display()
        );
        return ExitCode::from(2);
    }

    let start = Instant::now();
    let watch = Arc::new(Watch {
        began: AtomicU64::new(0),
        round: AtomicU64::new(0),
        input: Mutex::new(String::new()),
    });
    let watcher = Arc::clone(&watch);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let spent = start.elapsed().as_millis() as u64 - watcher.began.load(Relaxed);
            let why = if spent > ROUND_LIMIT * 1000 {
                format!("more than {ROUND_LIMIT} seconds")
            } else if resident_bytes() > MEMORY_LIMIT {
                format!("more than {MEMORY_LIMIT} bytes of memory")
            } else {
                continue;
            };
            watcher.fail(&why);
            std::process::exit(1);
        }
    });

    let mut numbers = Numbers(arguments.seed);
    let mut outcomes = Outcomes::default();
    let mut rounds = 0u64;
    let (mut slowest, mut most) = (Duration::ZERO, 0);
    while start.elapsed() < Duration::from_secs(arguments.seconds) {
        let is_case = numbers.below(5) == 0;
        let text = if is_case {
            let source = CASES[numbers.below(CASES.len())];
            mutate(source, &mut numbers)
        } else {
            let source = &files[numbers.below(files.len())].1;
            mutate(source, &mut numbers)
        };
        let began = start.elapsed();
        watch.began.store(began.as_millis() as u64, Relaxed);
        watch.round.store(rounds, Relaxed);
        watch
            .input
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&text);
        let run = catch_unwind(AssertUnwindSafe(|| {
            if is_case {
                run_case(&scratch, &text, &mut outcomes);
            } else {
                run_ptx(&text, &mut numbers, &mut outcomes);
            }
        }));
        if run.is_err() {
            return watch.fail("a panic");
        }
        slowest = slowest.max(start.elapsed() - began);
        most = most.max(resident_bytes());
        rounds += 1;
    }
    // Left behind only if the system keeps it from being removed.
    let _ = std::fs::remove_dir_all(&scratch);
    println!(
        "{rounds} rounds in {:.0} s: {} refused, {} parsed, {} launches ({} refused or stopped, {} with findings); slowest {:.2} s, \
         at most {} MiB",
        start.elapsed().as_secs_f64(),
        outcomes.refused,
        outcomes.parsed,
        outcomes.launches,
        outcomes.stopped,
        outcomes.findings,
        slowest.as_secs_f64(),
        most >> 20,
    );
    ExitCode::SUCCESS
}

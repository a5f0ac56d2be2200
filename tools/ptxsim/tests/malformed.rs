//! Malformed PTX and case files: an error, never a panic or a hang.

use std::path::Path;

use proptest::prelude::*;
use ptxsim::{Case, LaunchConfig, Loaded, Memory, Module, launch};

const PTX: &str = include_str!("kernels/ptx/divergent.ptx");
const MMA: &str = include_str!("kernels/ptx/gemm_bf16.ptx");
const HOPPER: &str = include_str!("kernels/ptx/planted_hopper.ptx");

/// Parses; what parses is also run, on no memory, with few instructions.
fn survive(text: &str) {
    let Ok(module) = Module::parse("fuzz.ptx", text) else {
        return;
    };
    let memory = Memory::new(1 << 24);
    let names: Vec<(String, u32)> = module
        .kernels()
        .map(|k| (k.name.clone(), k.param_bytes))
        .collect();
    let Ok(loaded) = Loaded::new(module.into(), &memory) else {
        return;
    };
    for (name, bytes) in names {
        let config = LaunchConfig {
            instruction_limit: 2_000,
            params: vec![1; bytes as usize],
            threads: 1,
            ..LaunchConfig::new([2, 1, 1], [144, 1, 1])
        };
        // Refused, stopped or finished: all are fine.
        let _ = launch(&loaded, &name, &config, &memory);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_lines(
        source in prop::sample::select(vec![PTX, MMA, HOPPER]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..6u8), 1..4),
    ) {
        let mut lines: Vec<String> = source.lines().map(str::to_owned).collect();
        for (one, other, kind) in edits {
            let (i, j) = (one.index(lines.len()), other.index(lines.len()));
            match kind {
                0 => lines.swap(i, j),
                1 => drop(lines.remove(i)),
                2 => { let line = lines[j].clone(); lines.insert(i, line) }
                3 => { let cut = j % (lines[i].len() + 1); if lines[i].is_char_boundary(cut) { lines[i].truncate(cut) } }
                4 => lines[i] = lines[i].replace(['1', '2', '4'], "99999999999"),
                _ => lines[i] = lines[i].replacen(['.', ',', ';', '['], "{", 1),
            }
        }
        survive(&lines.join("\n"));
    }

    #[test]
    fn arbitrary_text(text in "(\\PC|\n){0,200}") {
        survive(&text);
        survive(&format!(".version 8.0\n.target sm_80\n.address_size 64\n.entry t() {{\n{text}\n}}"));
    }

    #[test]
    fn arbitrary_bytes_of_a_kernel(at in any::<prop::sample::Index>(), byte in any::<char>()) {
        let mut text = MMA.to_owned();
        let mut at = at.index(text.len());
        while !text.is_char_boundary(at) { at -= 1 }
        text.insert(at, byte);
        survive(&text);
    }

    #[test]
    fn mutated_cases(at in any::<prop::sample::Index>(), text in "\\PC{0,8}", cut in any::<bool>()) {
        let case = "ptx = 'none.ptx'\ngrid = [1, 2]\nblock = 32\nargs = ['x', { s32 = 5 }, { bytes = [1, 2] }]\n\
                    [[buffer]]\nname = 'x'\ndtype = 'f32'\nlength = 7\nfill = 'normal'\nseed = 3\n";
        let mut at = at.index(case.len());
        while !case.is_char_boundary(at) { at -= 1 }
        let tail = if cut { "" } else { &case[at..] };
        if let Ok(case) = Case::parse(Path::new("case.toml"), &format!("{}{text}{tail}", &case[..at])) {
            prop_assert!(case.run(&Default::default()).is_err());
        }
    }
}

//! A netbpf of another build: the same but for a number in its eBPF programs.

use crate::binary;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The timer's longest period in nanoseconds, `IDLE_PERIOD` of the datapath's sweeper:
/// half a second.
const IDLE_PERIOD: u32 = 500_000_000;
/// What the other build has in its place.
const OTHER_PERIOD: u32 = 400_000_000;

/// Opcode of the instruction that moves a constant into a register of 64 bits.
const MOVE: u8 = 0xb7;

/// A binary of another build, removed on drop.
///
/// Its programs are other ones: flows that nobody touches are looked at a little more
/// often.
pub struct AnotherBuild {
    path: PathBuf,
}

impl AnotherBuild {
    /// Makes it from the binary under test.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut bytes = fs::read(binary()).expect("read the binary");
        let old = IDLE_PERIOD.to_le_bytes();
        // An instruction: opcode, registers, an offset that is not used, the constant.
        let found: Vec<usize> = (0..bytes.len() - 8)
            .filter(|&at| {
                let code = &bytes[at..at + 8];
                code[0] == MOVE && code[1] < 11 && code[2..4] == [0, 0] && code[4..] == old
            })
            .collect();
        assert!(!found.is_empty(), "the programs do not wait for half a second");
        for at in found {
            bytes[at + 4..at + 8].copy_from_slice(&OTHER_PERIOD.to_le_bytes());
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("netbpf-another-{}-{number}", process::id());
        let path = env::temp_dir().join(name);
        fs::write(&path, bytes).expect("write a binary");
        let mode = fs::metadata(binary()).expect("stat the binary").permissions();
        fs::set_permissions(&path, mode).expect("make it a program");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for AnotherBuild {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for AnotherBuild {
    fn drop(&mut self) {
        // In a directory for what may be removed at any time.
        let _ = fs::remove_file(&self.path);
    }
}

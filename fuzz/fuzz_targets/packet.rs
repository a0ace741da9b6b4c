//! Any frame, at each of the programs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netbpf_ebpf::sim::script::play_packet;

fuzz_target!(|bytes: &[u8]| play_packet(bytes));

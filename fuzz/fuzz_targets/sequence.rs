//! Any history of a network: frames, time, and what the control plane does, beside the
//! shadow NAT that says what has to come of it.

#![no_main]

use libfuzzer_sys::{
    arbitrary::{Arbitrary, Result, Unstructured},
    fuzz_target,
};
use netbpf_ebpf::sim::script::Script;

/// A script; what fails is shown event by event.
#[derive(Debug)]
struct Input(Script);

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(Script::decode(bytes.bytes(bytes.len())?)))
    }
}

fuzz_target!(|input: Input| input.0.play());

//! What the compiled programs take: read from an object, without loading it.

use std::collections::BTreeMap;

use object::{
    File, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex,
    SymbolKind,
};

use crate::error::{Context as _, Error, Result};

/// Size of a function of an object.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CodeSize {
    /// Instructions, as compiled.
    pub instructions: usize,
    /// Bytes of its stack frame.
    pub frame: usize,
    /// Bytes of stack of the longest chain of calls from here, this frame included, as
    /// Linux 6.1 counts: each frame takes a multiple of 32, and at least that
    /// (`check_max_stack_depth()` of `kernel/bpf/verifier.c`). Newer kernels round less.
    pub chain: usize,
}

/// Place of a function: the number of its section, and where it begins there.
type Place = (usize, u64);

/// A function, and those that it calls or passes to be called.
struct Function<'a> {
    name: &'a str,
    code: &'a [u8],
    callees: Vec<Place>,
}

/// The size of each function of a compiled object, by its symbol.
///
/// # Errors
/// It is no object; an empty one is what a build without toolchain leaves.
pub fn code_sizes(object: &[u8]) -> Result<BTreeMap<String, CodeSize>> {
    let functions = functions(object)?;
    let mut chains = BTreeMap::new();
    let sizes = functions.iter().map(|(place, function)| {
        let size = CodeSize {
            instructions: instructions(function.code).len(),
            frame: frame(function.code),
            chain: chain(&functions, *place, &mut chains),
        };
        (function.name.to_owned(), size)
    });
    Ok(sizes.collect())
}

fn functions(object: &[u8]) -> Result<BTreeMap<Place, Function<'_>>> {
    let what = "cannot read the compiled programs";
    let file = object::File::parse(object).context(what)?;
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(section) = symbol.section_index() else { continue };
        let data = file.section_by_index(section).and_then(|section| section.data());
        let range = usize::try_from(symbol.address()).ok().zip(usize::try_from(symbol.size()).ok());
        let code = data.context(what)?;
        let code = range.and_then(|(start, len)| code.get(start..start.checked_add(len)?));
        let code = code.ok_or_else(|| Error::failed(what).because("a function is cut off"))?;
        let name = symbol.name().context(what)?;
        let callees = callees(&file, (section.0, symbol.address()), code).context(what)?;
        functions.insert((section.0, symbol.address()), Function { name, code, callees });
    }
    Ok(functions)
}

/// Bytes of an instruction.
const INSTRUCTION: u8 = 8;

/// The instructions of code.
fn instructions(code: &[u8]) -> impl ExactSizeIterator<Item = &[u8]> {
    code.chunks_exact(INSTRUCTION.into())
}

/// The functions that code at a place calls, and those whose addresses it loads, for
/// helpers to call them.
fn callees(file: &File<'_>, place: Place, code: &[u8]) -> object::Result<Vec<Place>> {
    const CALL: u8 = 0x85;
    const LOAD_ADDRESS: u8 = 0x18;
    /// In a call's source register: of a function of the object, not of a helper.
    const PSEUDO_CALL: u8 = 1;
    let section = file.section_by_index(SectionIndex(place.0))?;
    let targets: BTreeMap<u64, RelocationTarget> =
        section.relocations().map(|(at, relocation)| (at, relocation.target())).collect();
    let mut callees = Vec::new();
    for (at, instruction) in (place.1..).step_by(INSTRUCTION.into()).zip(instructions(code)) {
        let is_call = instruction[0] == CALL && instruction[1] >> 4 == PSEUDO_CALL;
        if !is_call && instruction[0] != LOAD_ADDRESS {
            continue;
        }
        let constant = i64::from(constant(instruction));
        // A call's is the distance in instructions, from the next one.
        let distance = if is_call { (constant + 1) * i64::from(INSTRUCTION) } else { constant };
        match targets.get(&at) {
            Some(RelocationTarget::Symbol(index)) => {
                let symbol = file.symbol_by_index(*index)?;
                let is_whole = symbol.kind() == SymbolKind::Section;
                let distance = if is_whole { distance } else { 0 };
                let start = symbol.address().wrapping_add_signed(distance);
                callees.extend(symbol.section_index().map(|section| (section.0, start)));
            }
            None if is_call => callees.push((place.0, at.wrapping_add_signed(distance))),
            _ => {}
        }
    }
    Ok(callees)
}

/// The longest chain of calls from a function; loads of what is none have no stack.
fn chain(
    functions: &BTreeMap<Place, Function<'_>>,
    place: Place,
    known: &mut BTreeMap<Place, usize>,
) -> usize {
    let Some(function) = functions.get(&place) else { return 0 };
    if let Some(&chain) = known.get(&place) {
        return chain;
    }
    // The verifier takes no recursion; here it shall not go on for ever.
    known.insert(place, 0);
    let deepest = function.callees.iter().map(|&callee| chain(functions, callee, known)).max();
    let all = frame(function.code).max(1).next_multiple_of(32) + deepest.unwrap_or_default();
    known.insert(place, all);
    all
}

/// The constant in an instruction.
fn constant(instruction: &[u8]) -> i32 {
    i32::from_le_bytes(std::array::from_fn(|i| instruction[4 + i]))
}

/// The lowest offset from the frame pointer (register 10) that code uses: as the
/// base of a load or store, or added to a copy of it.
fn frame(code: &[u8]) -> usize {
    const FRAME_POINTER: u8 = 10;
    let mut lowest = 0_i32;
    let mut copies = [false; 16];
    for instruction in instructions(code) {
        let (op, dst, src) = (instruction[0], instruction[1] & 0xf, instruction[1] >> 4);
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        let constant = constant(instruction);
        match op & 7 {
            // Loads (class 1) have their base in src, stores (2, 3) in dst.
            1 if src == FRAME_POINTER => lowest = lowest.min(offset),
            2 | 3 if dst == FRAME_POINTER => lowest = lowest.min(offset),
            7 if op == 0xbf => copies[usize::from(dst)] = src == FRAME_POINTER,
            7 if op == 0x07 && copies[usize::from(dst)] => lowest = lowest.min(constant),
            _ => {}
        }
    }
    // The verifier allows no frame of more than 512 bytes.
    lowest.unsigned_abs() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_as_large_as_its_lowest_word() {
        // r2 = r10; r2 += -96; *(u64 *)(r10 - 40) = r1; exit
        let code: [u8; 32] = [
            0xbf, 0xa2, 0, 0, 0, 0, 0, 0, 0x07, 0x02, 0, 0, 0xa0, 0xff, 0xff, 0xff, 0x7b, 0x1a,
            0xd8, 0xff, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(frame(&code), 96);
        assert_eq!(frame(&code[16..]), 40);
    }

    #[test]
    fn the_longest_chain_of_calls_counts() {
        // Each function's first word is on the stack at the offset that it is given.
        let uses = |offset: u8| [0x7b, 0x1a, offset, 0xff, 0, 0, 0, 0];
        let (shallow, deep, caller) = (uses(0xf8), uses(0xd0), uses(0xf0));
        let function =
            |code, callees: &[Place]| Function { name: "", code, callees: callees.to_vec() };
        let functions = BTreeMap::from([
            ((1, 0), function(&caller, &[(1, 8), (1, 16), (2, 0)])),
            ((1, 8), function(&shallow, &[])),
            ((1, 16), function(&deep, &[(1, 8)])),
        ]);
        let longest = |place| chain(&functions, place, &mut BTreeMap::new());
        assert_eq!(longest((1, 8)), 32, "8, rounded up");
        assert_eq!(longest((1, 16)), 64 + 32);
        assert_eq!(longest((1, 0)), 32 + 64 + 32, "and what is no function has no stack");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(code_sizes(b"").is_err());
    }
}

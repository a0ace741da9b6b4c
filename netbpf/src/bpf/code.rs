//! What the compiled programs take: read from an object, without loading it.

use std::collections::BTreeMap;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

use crate::error::{Context as _, Error, Result};

/// Size of a function of an object.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CodeSize {
    /// Instructions, as compiled.
    pub instructions: usize,
    /// Bytes of its stack frame.
    pub frame: usize,
}

/// The size of each function of a compiled object, by its symbol.
///
/// # Errors
/// It is no object; an empty one is what a build without toolchain leaves.
pub fn code_sizes(object: &[u8]) -> Result<BTreeMap<String, CodeSize>> {
    let what = "cannot read the compiled programs";
    let file = object::File::parse(object).context(what)?;
    let mut sizes = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(section) = symbol.section_index() else { continue };
        let section = file.section_by_index(section).context(what)?;
        let data = section.data().context(what)?;
        let range = usize::try_from(symbol.address()).ok().and_then(|start| {
            data.get(start..start.checked_add(usize::try_from(symbol.size()).ok()?)?)
        });
        let code = range.ok_or_else(|| Error::failed(what).because("a function is cut off"))?;
        let size = CodeSize { instructions: code.len() / 8, frame: frame(code) };
        sizes.insert(symbol.name().context(what)?.to_owned(), size);
    }
    Ok(sizes)
}

/// The lowest offset from the frame pointer (register 10) that code uses: as the
/// base of a load or store, or added to a copy of it.
fn frame(code: &[u8]) -> usize {
    const FRAME_POINTER: u8 = 10;
    let mut lowest = 0_i32;
    let mut copies = [false; 16];
    for instruction in code.chunks_exact(8) {
        let (op, dst, src) = (instruction[0], instruction[1] & 0xf, instruction[1] >> 4);
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        let constant = i32::from_le_bytes(std::array::from_fn(|i| instruction[4 + i]));
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
    fn what_is_no_object_is_refused() {
        assert!(code_sizes(b"").is_err());
    }
}

//! What fuzzers found, replayed: the corpus, and whatever once crashed.

use std::{fs, panic, path::Path};

use netbpf_ebpf::sim::script::{Script, play_packet};

/// Plays every file of a fuzz target, and names those that an invariant does
/// not hold for.
fn replay(target: &str, play: impl Fn(&[u8]) + panic::RefUnwindSafe) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut failed = Vec::new();
    for folder in ["corpus", "crashes"] {
        let mut played = 0;
        for file in fs::read_dir(fuzz.join(folder).join(target)).into_iter().flatten() {
            played += 1;
            let path = file.expect("can be listed").path();
            let bytes = fs::read(&path).expect("can be read");
            if panic::catch_unwind(|| play(&bytes)).is_err() {
                failed.push(path);
            }
        }
        assert!(played > 0 || folder == "crashes", "no {folder} of {target}");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn any_frame_keeps_the_invariants() {
    replay("packet", play_packet);
}

#[test]
fn any_history_keeps_the_invariants() {
    replay("sequence", |bytes| Script::decode(bytes).play());
}

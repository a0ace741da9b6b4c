//! What the kernel says of itself.

use nix::libc;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

/// What the kernel says when something in it is wrong.
const COMPLAINTS: [&str; 8] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "general protection",
    "Call Trace",
    "csum failure",
    "refcount_t",
    "blocked for more than",
];

/// The kernel's messages from now on; none where they may not be read.
#[derive(Debug)]
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// Begins to listen.
    pub fn from_now() -> Self {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        let at_end = file.and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file));
        Self(at_end.inspect_err(|e| eprintln!("the kernel's messages are not read: {e}")).ok())
    }

    /// Panics if the kernel has complained of anything since.
    #[track_caller]
    pub fn has_no_complaint(mut self) {
        let Some(log) = &mut self.0 else { return };
        let mut record = vec![0; 1 << 13];
        let mut said = Vec::new();
        // Each read gives one record, and an error when there is no more.
        while let Ok(len) = log.read(&mut record) {
            said.push(String::from_utf8_lossy(&record[..len]).into_owned());
        }
        let complained = said.iter().any(|line| COMPLAINTS.iter().any(|what| line.contains(what)));
        assert!(!complained, "the kernel says:\n{}", said.concat());
    }
}

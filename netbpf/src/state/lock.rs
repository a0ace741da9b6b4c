//! One change at a time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::Store;
use crate::{
    error::{Context as _, Error, Result},
    interrupt,
};

/// How long another run is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often is looked whether it is done.
const GLANCE: Duration = Duration::from_millis(50);

/// The right to change a host's networks; given back on drop, and with it the
/// directory, if no network is left.
#[derive(Debug)]
pub struct Lock {
    dir: PathBuf,
    _file: Flock<File>,
}

impl Store {
    fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Waits for the right to change something.
    ///
    /// # Errors
    /// Another run does not end, or the file system's.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.lock_path();
        let what = || format!("cannot lock {}", path.display());
        let begin = Instant::now();
        loop {
            interrupt::check()?;
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir).context(what())?;
            let opened =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = match opened {
                // The last network went and took the directory along.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.context(what())?,
            };
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    let ours = file.metadata().context(what())?.ino();
                    if fs::metadata(&path).is_ok_and(|now| now.ino() == ours) {
                        // For the hint of whoever waits in vain.
                        let _ = file.set_len(0);
                        let _ = file.rewind();
                        let _ = writeln!(file, "{}", std::process::id());
                        return Ok(Lock { dir: self.dir.clone(), _file: file });
                    }
                }
                Err((_, Errno::EWOULDBLOCK)) if begin.elapsed() < PATIENCE => {
                    thread::sleep(GLANCE);
                }
                Err((_, Errno::EWOULDBLOCK)) => return Err(busy(owner.trim())),
                Err((_, error)) => return Err(error).context(what()),
            }
        }
    }
}

fn busy(owner: &str) -> Error {
    let who = if owner.is_empty() { String::new() } else { format!(" (process {owner})") };
    Error::failed("another netbpf is changing this host's networks")
        .because(format!("waited {} s for it{who} to finish", PATIENCE.as_secs()))
        .hint("try again when it is done")
}

impl Drop for Lock {
    fn drop(&mut self) {
        let left = fs::read_dir(&self.dir).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lock"))
        });
        if !left {
            // Nobody is harmed by what cannot be removed.
            let _ = fs::remove_file(self.dir.join("lock"));
            let _ = fs::remove_dir(&self.dir);
            if let Some(all) = self.dir.parent() {
                let _ = fs::remove_dir(all);
            }
        }
    }
}

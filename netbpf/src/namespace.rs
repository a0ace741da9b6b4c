//! Being inside a network namespace, on a thread or with a process.

use std::{
    env,
    ffi::{CString, OsStr},
    fs::File,
    io,
    os::unix::{ffi::OsStringExt as _, process::CommandExt as _},
    panic::resume_unwind,
    process::Command,
    sync::Arc,
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
    unistd::chdir,
};

use crate::error::{Context as _, Error, Result};

/// A network namespace, and the mounts by which it has its name: a sandbox's, or those
/// of the machine. A clone is the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    net: Arc<File>,
    mounts: Arc<File>,
}

impl Namespace {
    pub(crate) fn new(name: &str, mounts: &Arc<File>, net: File) -> Self {
        Self { name: name.to_owned(), net: Arc::new(net), mounts: Arc::clone(mounts) }
    }

    /// The one that the calling thread is in, by a name of its own.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn here(name: &str) -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/thread-self/ns/{kind}");
            File::open(&path).context(format!("cannot open {path}"))
        };
        Ok(Self::new(name, &Arc::new(open("mnt")?), open("net")?))
    }

    /// Another one whose name is among the same mounts.
    pub(crate) fn beside(&self, name: &str, net: File) -> Self {
        Self::new(name, &self.mounts, net)
    }

    /// Its name below `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` in a thread inside and waits for it. Sockets and processes that
    /// it makes stay inside, wherever they are used afterwards; a panic is
    /// passed on.
    ///
    /// # Errors
    /// The namespace cannot be entered. What `f` returns is none of this.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            self.enter().context(format!("cannot enter namespace {}", self.name))?;
            Ok(f())
        })
    }

    /// A command that will run inside, in the directory that this process is in
    /// now if its mounts have it, whatever `Command::current_dir` says.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let inside = self.clone();
        let directory = env::current_dir().ok();
        let directory =
            directory.and_then(|path| CString::new(path.into_os_string().into_vec()).ok());
        let enter = move || -> io::Result<()> {
            inside.enter()?;
            // Entering has led to the root directory: at worst it stays there.
            if let Some(directory) = &directory {
                let _ = chdir(directory.as_c_str());
            }
            Ok(())
        };
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes four system calls on
        // file descriptors and a string that it owns; it allocates nothing and
        // takes no lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Moves the calling thread, or a child between fork and exec, inside, to
    /// the root directory.
    pub(crate) fn enter(&self) -> Result<(), Errno> {
        enter_mounts(&self.mounts)?;
        self.enter_net()
    }

    /// The same, but with the mounts that it has.
    pub(crate) fn enter_net(&self) -> Result<(), Errno> {
        setns(&*self.net, CloneFlags::CLONE_NEWNET)
    }
}

/// Moves the calling thread into a mount namespace, to its root directory.
pub(crate) fn enter_mounts(mounts: &File) -> Result<(), Errno> {
    // Threads share root and working directory, and who shares them is not let in.
    unshare(CloneFlags::CLONE_FS)?;
    setns(mounts, CloneFlags::CLONE_NEWNS)
}

/// Runs `f` in a thread of its own, which may go where it likes.
pub(crate) fn on_a_thread<T: Send>(f: impl FnOnce() -> Result<T, Error> + Send) -> Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("namespace".into());
        let thread = builder.spawn_scoped(scope, f).context("cannot start a thread")?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

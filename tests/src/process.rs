//! Running a process to its end, with a deadline, and what came of it.

use crate::wait;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fmt,
    io::Read,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// Longest run of any command.
const LONGEST: Duration = Duration::from_secs(60);

/// How a process ended and what it said.
#[derive(Clone)]
pub struct Outcome {
    /// The command line.
    pub command: String,
    /// Its exit code; none if a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Outcome {
    /// The outcome, which must be exit code 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// The outcome, which must have this exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code of {self}");
        self
    }

    /// The outcome, whose standard output must contain `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "{text:?} is not in the output of {self}");
        self
    }

    /// The outcome, whose standard error must contain `text`, in any case.
    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        let stderr = self.stderr.to_lowercase();
        assert!(stderr.contains(&text.to_lowercase()), "{text:?} is not in the errors of {self}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("output is not JSON ({e}): {self}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: code {:?}, signal {:?}", self.command, self.code, self.signal)?;
        write!(f, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end, without standard input.
///
/// It fails the test if the command runs longer than a minute, or leaves a
/// process behind that holds on to its output.
#[track_caller]
pub fn finish(command: &mut Command) -> Outcome {
    run(command, |_| {})
}

/// Runs a command and sends it a signal after a while, unless it has ended by then.
///
/// Here time is what the test is about: the signal is to hit at any moment.
#[track_caller]
pub fn interrupt(command: &mut Command, after: Duration, signal: Signal) -> Outcome {
    run(command, |child| {
        thread::sleep(after);
        let pid = Pid::from_raw(child.id().cast_signed());
        // Nobody has waited for the child yet: the number is still its own.
        kill(pid, signal).expect("signal a child");
    })
}

#[track_caller]
fn run(command: &mut Command, meanwhile: impl FnOnce(&Child)) -> Outcome {
    let line = line_of(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("start `{line}`: {e}"));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    meanwhile(&child);
    let status = wait_for(&mut child, &line);
    let take =
        |output: Receiver<Vec<u8>>| match output.recv_timeout(wait::DEADLINE * wait::patience()) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(RecvTimeoutError::Timeout) => panic!("`{line}` ended but left a process behind"),
            Err(RecvTimeoutError::Disconnected) => panic!("reading the output of `{line}` failed"),
        };
    Outcome {
        code: status.code(),
        signal: status.signal(),
        stdout: take(stdout),
        stderr: take(stderr),
        command: line,
    }
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn collect(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if output.read_to_end(&mut bytes).is_ok() {
            // The receiver may have given up already.
            let _ = sender.send(bytes);
        }
    });
    receiver
}

fn wait_for(child: &mut Child, line: &str) -> ExitStatus {
    let (start, longest) = (Instant::now(), LONGEST * wait::patience());
    loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            return status;
        }
        if start.elapsed() > longest {
            let killed = child.kill().and_then(|()| child.wait());
            panic!("`{line}` still ran after {longest:?} (then killed: {killed:?})");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

//! `netbpf logs`: what the datapath logged.

use std::{
    io::Write,
    os::fd::AsFd as _,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use netbpf_common::DropReason;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::{
    bpf::LogLevel,
    commands::maps::Subject,
    error::{Context as _, Error, Result},
    output::{CANNOT_WRITE, Format, Sink, Style, write_json},
};

/// Show what the datapath logged
///
/// A record is shown once: reading takes it out of the log. What nobody reads
/// stays there until the log is full, and newer records are lost.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  netbpf up --namespaces 3 --log-level debug
  netbpf logs --follow")]
pub struct Args {
    /// Wait for more, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

impl Args {
    /// Shows the records, those to come included if asked for.
    ///
    /// # Errors
    /// If the datapath does not log, or its log cannot be read.
    pub fn run(&self, subject: &Subject, style: Style) -> Result<ExitCode> {
        let datapath = subject.ebpf().ok_or_else(|| {
            Error::failed("only the eBPF datapath logs")
                .because("this host's networks have the iptables datapath")
                .hint("`iptables -vnL` counts packets; a rule of yours with -j LOG tells of each")
        })?;
        if datapath.options()?.log_level == LogLevel::Off {
            return Err(Error::failed("the datapath does not log")
                .because("it was loaded with log level off")
                .hint("have it log: netbpf upgrade --log-level debug"));
        }
        let program = datapath.log_source()?;
        let printer = Printer::new(style.format);
        let mut logger = EbpfLogger::init_from_id_with_logger(program, &printer)
            .context("cannot open the datapath's log")?;
        loop {
            logger.flush();
            let somebody_reads = printer.flush()?;
            if !self.follow || !somebody_reads {
                return Ok(ExitCode::SUCCESS);
            }
            let mut ready = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::NONE).context("cannot wait for the log")?;
        }
    }
}

/// Prints records as they are handed over.
struct Printer {
    format: Format,
    /// The first error, if any: a logger has no way to return it.
    out: Mutex<(Sink, Result<()>)>,
}

/// A record in JSON.
#[derive(Serialize)]
struct View<'a> {
    level: &'a str,
    target: &'a str,
    message: &'a str,
}

impl Printer {
    fn new(format: Format) -> Self {
        Self { format, out: Mutex::new((Sink::stdout(), Ok(()))) }
    }

    /// Writes out what was printed; false if nobody reads any longer.
    fn flush(&self) -> Result<bool> {
        let (sink, result) = &mut *self.out.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(result, Ok(()))?;
        sink.flush().context(CANNOT_WRITE)?;
        Ok(!sink.is_closed())
    }

    fn print(&self, sink: &mut Sink, record: &Record<'_>) -> Result<()> {
        let level = record.level().as_str();
        let message = with_reason(record.args().to_string());
        match self.format {
            Format::Table => writeln!(sink, "{level:<5} {message}").context(CANNOT_WRITE),
            Format::Json => {
                let target = record.target();
                write_json(sink, &View { level: &level.to_lowercase(), target, message: &message })
            }
        }
    }
}

impl Log for &Printer {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (sink, result) = &mut *self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if result.is_ok() {
            *result = self.print(sink, record);
        }
    }

    fn flush(&self) {}
}

/// The message with the name of the drop reason that it ends with: the datapath
/// logs a number, as text costs it instructions.
fn with_reason(message: String) -> String {
    let named = message.rsplit_once("reason ").and_then(|(before, number)| {
        let reason = DropReason::ALL.get(number.parse::<usize>().ok()?)?;
        Some(format!("{before}reason {}", reason.name()))
    });
    named.unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named() {
        let named = |message: &str| with_reason(message.to_owned());
        assert_eq!(
            named("endpoint 1: dropped, reason 2"),
            "endpoint 1: dropped, reason source_mac"
        );
        for other in ["endpoint 1: passed up", "reason 99", "reason "] {
            assert_eq!(named(other), other);
        }
    }
}

//! `netbpf generate`: man pages, completions and the schema of files, from the
//! definition of the command line.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory as _, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{
    cli::Cli,
    error::{Context as _, Result},
    output::CANNOT_WRITE,
    spec::schema,
};

/// Write man pages, shell completions or the schema of files
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// A man page for netbpf and each verb
    Man {
        /// The directory that they are written to
        directory: PathBuf,
    },
    /// Completions, to standard output
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// The JSON schema of a file for `netbpf up -f`, to standard output
    Schema,
}

impl Args {
    /// Writes what was asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn run(self) -> Result<ExitCode> {
        match self.what {
            What::Man { directory } => {
                fs::create_dir_all(&directory)
                    .context(format!("cannot create {}", directory.display()))?;
                write_pages(&mut Cli::command(), "netbpf", &directory)?;
            }
            What::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "netbpf", &mut text);
                io::stdout().write_all(&text).context(CANNOT_WRITE)?;
            }
            What::Schema => {
                writeln!(io::stdout(), "{:#}", schema()).context(CANNOT_WRITE)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the page of a command, and those of its subcommands.
fn write_pages(command: &mut clap::Command, name: &str, directory: &Path) -> Result<()> {
    command.build();
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    // Subcommands are built with the whole name to be displayed, "netbpf up",
    // and a page's name has hyphens.
    Man::new(command.clone().display_name(name.to_owned()))
        .title(name.to_uppercase())
        .render(&mut page)
        .and_then(|()| fs::write(&path, page))
        .context(format!("cannot write {}", path.display()))?;
    for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
        let name = format!("{name}-{}", sub.get_name());
        write_pages(sub, &name, directory)?;
    }
    Ok(())
}

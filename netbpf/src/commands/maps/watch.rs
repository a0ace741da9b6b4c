//! Showing something anew each second.

use std::{
    io::{self, IsTerminal as _, Write as _},
    thread,
    time::Duration,
};

use crate::{
    error::{Context as _, Result},
    output::{CANNOT_WRITE, Sink},
};

/// To the upper left corner; the picture is overwritten rather than cleared,
/// which would flicker.
const HOME: &str = "\x1b[H";
/// Clears what is left of the line.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears what is left of the screen.
const CLEAR_BELOW: &str = "\x1b[J";

/// Shows once, or each second until Ctrl-C or until nobody reads any longer.
///
/// On a terminal each picture takes the place of the one before, cut to the
/// screen; elsewhere the pictures follow one another.
pub(super) fn show(
    watch: bool,
    out: &mut Sink,
    mut draw: impl FnMut(&mut dyn io::Write) -> Result<()>,
) -> Result<()> {
    if !watch {
        return draw(out);
    }
    while !out.is_closed() {
        let screen = terminal_size::terminal_size().filter(|_| io::stdout().is_terminal());
        match screen {
            Some((width, height)) => {
                let mut picture = Vec::new();
                draw(&mut picture)?;
                let text = String::from_utf8_lossy(&picture);
                let screen = fit(&text, width.0.into(), height.0.into());
                out.write_all(screen.as_bytes()).context(CANNOT_WRITE)?;
            }
            None => draw(out)?,
        }
        out.flush().context(CANNOT_WRITE)?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// The picture on a screen of so many columns and lines.
fn fit(picture: &str, width: usize, height: usize) -> String {
    let lines: Vec<&str> = picture.lines().collect();
    // The last line stays free: for what is left out, and for the cursor.
    let room = height.saturating_sub(2);
    let mut screen = String::from(HOME);
    for line in lines.iter().take(room) {
        screen.extend(line.chars().take(width));
        screen.push_str(CLEAR_LINE);
        screen.push('\n');
    }
    if lines.len() > room {
        let more = format!("... and {} more", lines.len() - room);
        screen.push_str(&more);
    }
    screen.push_str(CLEAR_BELOW);
    screen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_cut_to_the_screen() {
        assert_eq!(fit("abcdef\ngh\n", 4, 10), "\x1b[Habcd\x1b[K\ngh\x1b[K\n\x1b[J");
        assert_eq!(fit("a\nb\nc\n", 4, 4), "\x1b[Ha\x1b[K\nb\x1b[K\n... and 1 more\x1b[J");
    }
}

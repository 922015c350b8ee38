//! Standard output and standard error, without panics where nobody reads them.

use std::{
    borrow::Cow,
    fmt,
    io::{self, IsTerminal, Write},
};

use super::Failure;

/// Writes a text to the standard output at once, so that a stream shows as it comes.
pub(super) fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Writes a line to the standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    write(&format!("{text}\n"))
}

/// Tells the user something on standard error, or nobody if that is closed.
pub(super) fn notice(message: fmt::Arguments) {
    // Much of what is told is in the words of a server, or of a file.
    let message = message.to_string();
    let lines: Vec<_> = message.split('\n').map(printable).collect();
    let _ = writeln!(io::stderr(), "moorline: {}", lines.join("\n"));
}

/// A text from the log without what would move the cursor, colour the screen or turn the writing's direction: control
/// characters show as escapes. Tabs stay.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let hostile =
        |c: char| c != '\t' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
    if !text.contains(hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hostile(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Whether the standard output takes colours: a terminal, and no `NO_COLOR` (<https://no-color.org>).
pub(super) fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !refused && !dumb
}

/// Ready when the reader of the standard output is gone. Without it, `tail | head` would linger on a quiet session
/// until the next entry. Never ready for files and terminals.
pub(super) async fn reader_gone() {
    use std::os::fd::AsFd;
    use tokio::{io::Interest, net::unix::pipe::Sender};
    // Only watched, never written to: so it matters to nobody that the pipe is in blocking mode. What can't be watched,
    // as a file, is refused here.
    let watched = io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    let gone = match &watched {
        Ok(stdout) => stdout.ready(Interest::ERROR).await.is_ok(),
        Err(_) => false,
    };
    if !gone {
        std::future::pending().await
    }
}

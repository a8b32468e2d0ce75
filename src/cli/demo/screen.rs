//! Writes to stdout: lines that stay, and on a terminal a block below them that is
//! redrawn.
//!
//! Never moves the cursor or colours anything where nobody looks at a terminal.

use std::io::{self, IsTerminal, Write};

/// Colour and weight of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Stands out.
    Bold,
    /// Less important.
    Dim,
    /// Bad news.
    Red,
    /// Good news.
    Green,
    /// Take care.
    Yellow,
}

/// Where the demo is shown.
#[derive(Debug)]
pub struct Screen<W = io::Stdout> {
    out: W,
    /// Whether a block can be redrawn.
    live: bool,
    colours: bool,
    /// Lines of the block that is on the terminal now.
    block: usize,
}

impl Screen {
    /// Standard output, as it is.
    pub fn stdout() -> Self {
        let out = io::stdout();
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let live = out.is_terminal() && !dumb;
        let colours = live && !is_set("NO_COLOR");
        Self { out, live, colours, block: 0 }
    }
}

impl<W: Write> Screen<W> {
    /// Whether [`Screen::draw`] shows anything.
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// `text` in this tone, if there are colours.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Bold => "1",
            Tone::Dim => "2",
            Tone::Red => "1;31",
            Tone::Green => "1;32",
            Tone::Yellow => "1;33",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes lines that stay, in place of the block.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        let text = format!("{}{text}\n", self.erase());
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Redraws the block. Only where it can be.
    pub fn draw(&mut self, text: &str) -> io::Result<()> {
        if !self.live {
            return Ok(());
        }
        // Without wrapping: a line that took two rows would be left behind by the next erasure.
        let text = format!("{}\x1b[?7l{text}\x1b[?7h\n", self.erase());
        self.block = text.matches('\n').count();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Removes the block from the terminal.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.block) {
            0 => String::new(),
            lines => format!("\r\x1b[{lines}A\x1b[J"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(live: bool, colours: bool) -> String {
        let mut screen = Screen { out: Vec::new(), live, colours, block: 0 };
        screen.draw("one\ntwo").unwrap();
        screen.draw("three").unwrap();
        let red = screen.paint(Tone::Red, "bad");
        screen.say(&red).unwrap();
        screen.say("end").unwrap();
        String::from_utf8(screen.out).unwrap()
    }

    #[test]
    fn a_file_gets_plain_lines_only() {
        assert_eq!(shown(false, false), "bad\nend\n");
    }

    #[test]
    fn a_terminal_gets_a_block_that_is_replaced() {
        assert_eq!(
            shown(true, false),
            "\x1b[?7lone\ntwo\x1b[?7h\n\
             \r\x1b[2A\x1b[J\x1b[?7lthree\x1b[?7h\n\
             \r\x1b[1A\x1b[Jbad\nend\n"
        );
        assert!(shown(true, true).ends_with("\x1b[1;31mbad\x1b[0m\nend\n"));
    }
}

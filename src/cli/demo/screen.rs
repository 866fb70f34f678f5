//! What the demo prints: lines, a table, and one status line that is rewritten on a terminal.
//!
//! A closed output must not stop the demo's clean-up, so failures to print are ignored here, and
//! nowhere else.

use std::io::{self, IsTerminal, Write};

/// Erases the line that the cursor is in.
const ERASE_LINE: &str = "\r\x1b[2K";

/// The standard output, or a test's buffer.
pub(super) struct Screen {
    output: Box<dyn Write>,
    is_terminal: bool,
    has_status: bool,
}

impl Screen {
    pub(super) fn stdout() -> Self {
        let output = io::stdout();
        let is_terminal = output.is_terminal();
        Self { output: Box::new(output), is_terminal, has_status: false }
    }

    /// Prints a line that stays.
    pub(super) fn line(&mut self, text: &str) {
        self.clear_status();
        let _ = writeln!(self.output, "{text}");
        let _ = self.output.flush();
    }

    /// Shows what goes on: in place on a terminal, as a line elsewhere.
    pub(super) fn status(&mut self, text: &str) {
        if !self.is_terminal {
            return self.line(text);
        }
        let _ = write!(self.output, "{ERASE_LINE}{text}");
        let _ = self.output.flush();
        self.has_status = true;
    }

    /// Prints a table; the first column is flush left, the others flush right.
    pub(super) fn table<const N: usize>(&mut self, head: &[&str; N], rows: &[[String; N]]) {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let line = |cells: [&str; N]| {
            let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") }
            });
            padded.collect::<String>()
        };
        self.line("");
        self.line(&line(*head));
        self.line(&line(widths.map(|width| "-".repeat(width)).each_ref().map(String::as_str)));
        for row in rows {
            self.line(&line(row.each_ref().map(String::as_str)));
        }
    }

    fn clear_status(&mut self) {
        if std::mem::take(&mut self.has_status) {
            let _ = write!(self.output, "{ERASE_LINE}");
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear_status();
        let _ = self.output.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Paper(Rc<RefCell<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(is_terminal: bool, print: impl FnOnce(&mut Screen)) -> String {
        let paper = Paper::default();
        let output = Box::new(paper.clone());
        let mut screen = Screen { output, is_terminal, has_status: false };
        print(&mut screen);
        drop(screen);
        String::from_utf8(paper.0.take()).unwrap()
    }

    #[test]
    fn a_status_is_rewritten_on_a_terminal_and_gone_at_the_end() {
        let text = printed(true, |screen| {
            screen.status("one");
            screen.status("two");
            screen.line("stays");
            screen.status("three");
        });
        let erase = ERASE_LINE;
        assert_eq!(text, format!("{erase}one{erase}two{erase}stays\n{erase}three{erase}"));
    }

    #[test]
    fn a_status_is_a_line_elsewhere() {
        assert_eq!(printed(false, |screen| screen.status("one")), "one\n");
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = [["a".to_owned(), "1234".to_owned()], ["longer".to_owned(), "5".to_owned()]];
        let text = printed(false, |screen| screen.table(&["run", "tps"], &rows));
        assert_eq!(text, "\nrun      tps\n------  ----\na       1234\nlonger     5\n");
    }
}

//! How a line of the text log looks: the time, and the fields behind the message.
//!
//! The lines are those of `tracing_subscriber`'s own format, at a fraction of its price: two lines for
//! each client were a quarter of what a login costs. What a peer has sent can neither begin a line of
//! its own nor steer a terminal: control characters are escaped, wherever they come from.

use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// The name that tracing gives to what stands in front of the fields.
const MESSAGE: &str = "message";

/// UTC with microseconds.
pub(super) struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_micros(SystemTime::now()))
    }
}

/// The message, then `name=value` for each field; texts are quoted.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer: OneLine(writer), is_begun: false, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'w> {
    writer: OneLine<'w>,
    is_begun: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut OneLine<'_>) -> fmt::Result) {
        if self.result.is_err() {
            return;
        }
        self.result = self.name(field).and_then(|()| value(&mut self.writer));
    }

    fn name(&mut self, field: &Field) -> fmt::Result {
        let plain = &mut self.writer.0;
        if std::mem::replace(&mut self.is_begun, true) {
            plain.write_str(" ")?;
        }
        match field.name() {
            MESSAGE => Ok(()),
            name => {
                plain.write_str(name.strip_prefix("r#").unwrap_or(name))?;
                plain.write_str("=")
            }
        }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = |b: u8| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\';
        self.field(field, |writer| match field.name() {
            MESSAGE => writer.write_str(value),
            _ if value.bytes().all(is_plain) => {
                writer.0.write_str("\"")?;
                writer.0.write_str(value)?;
                writer.0.write_str("\"")
            }
            _ => write!(writer, "{value:?}"),
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, |writer| write!(writer, "{value:?}"));
    }
}

/// Passes text on, with its control characters escaped.
struct OneLine<'w>(Writer<'w>);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|b| matches!(b, b' '..=b'~')) {
            return self.0.write_str(text);
        }
        for c in text.chars() {
            match c.is_control() {
                true => write!(self.0, "{}", c.escape_default())?,
                false => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use tracing_subscriber::fmt::{self, MakeWriter};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Lines {
        /// Without the time at their beginning.
        fn take(&self) -> Vec<String> {
            let text = String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap();
            text.lines().map(|line| line[27..].to_owned()).collect()
        }
    }

    /// What two subscribers make of the same events: the library's format and this one.
    fn both(events: impl Fn()) -> [Vec<String>; 2] {
        let (theirs, ours) = (Lines::default(), Lines::default());
        let layer = || fmt::layer().with_target(false).with_ansi(false);
        let reference = layer().with_writer(theirs.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(reference), &events);
        let own = layer().with_timer(Utc).fmt_fields(Fields).with_writer(ours.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(own), &events);
        [theirs.take(), ours.take()]
    }

    #[test]
    fn lines_are_those_of_the_library() {
        let [theirs, ours] = both(|| {
            let (name, text) = ("shop", String::from("Zoë \"q\" \\ ☂"));
            tracing::info!("a message alone");
            tracing::warn!(database = name, user = text, "closing: {}", "reason");
            tracing::error!(client = %"127.0.0.1:5", age_ms = 12_u128, r#type = 3, ok = true, f = 1.5);
            tracing::info!(left = -3, of = ?Some("x"), "{name}");
            tracing::info!(error = &io::Error::other("why") as &dyn std::error::Error, "failed");
        });
        assert_eq!(ours.len(), 5);
        assert_eq!(ours, theirs);
        assert!(ours[1].contains("database=\"shop\" user=\"Zoë"), "{}", ours[1]);
    }

    #[test]
    fn what_a_peer_has_sent_begins_no_line_and_steers_no_terminal() {
        let nasty = "a\nFATAL b\u{1b}[2J\u{9b}c\r";
        let [_, ours] = both(|| {
            tracing::info!(shown = %nasty, quoted = nasty, "{nasty}");
        });
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert!(!ours[0].contains(char::is_control), "{ours:?}");
        assert!(ours[0].contains("a\\nFATAL b\\u{1b}[2J\\u{9b}c\\r"), "{ours:?}");
    }

    #[test]
    fn a_line_begins_with_the_time_in_utc() {
        let mut text = String::new();
        Utc.format_time(&mut Writer::new(&mut text)).unwrap();
        let pattern: String =
            text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(pattern, "0000-00-00T00:00:00.000000Z");
    }
}

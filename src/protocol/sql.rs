//! The little of SQL's text that matters to the bookkeeping of prepared statements.
//!
//! It must not decide what a statement does: that is for the server's answers to tell. Invariant:
//! where the text leaves a doubt, the answer is the careful one.

/// Whether running this text may take prepared statements away: it has one of the words in it
/// that begin such a command, if only in a comment or a string.
#[must_use]
pub fn may_forget_statements(sql: &[u8]) -> bool {
    const WORDS: [&[u8]; 2] = [b"deallocate", b"discard"];
    memchr::memchr2_iter(b'd', b'D', sql).any(|at| {
        let rest = sql.get(at..).unwrap_or_default();
        let begins =
            |word: &[u8]| rest.get(..word.len()).is_some_and(|r| r.eq_ignore_ascii_case(word));
        WORDS.into_iter().any(begins)
    })
}

/// The name in a text that is one `DEALLOCATE [PREPARE] name` and nothing else, as PostgreSQL
/// understands it: folded to lower case unless it is quoted. `None` for `ALL`, for several
/// statements, and for identifiers with escapes (`U&"..."`).
#[must_use]
pub fn deallocated_name(sql: &[u8]) -> Option<Vec<u8>> {
    let mut words = Words { rest: sql };
    if !matches!(words.next()?, Word::Bare(w) if w.eq_ignore_ascii_case(b"deallocate")) {
        return None;
    }
    let mut name = words.next()?;
    let mut behind = words.next();
    if matches!(name, Word::Bare(w) if w.eq_ignore_ascii_case(b"prepare"))
        && matches!(behind, Some(Word::Bare(_) | Word::Quoted(_)))
    {
        name = behind?;
        behind = words.next();
    }
    // One semicolon, or several, may follow.
    while matches!(behind, Some(Word::Semicolon)) {
        behind = words.next();
    }
    match (name, behind) {
        (_, Some(_)) => None,
        (Word::Bare(all), None) if all.eq_ignore_ascii_case(b"all") => None,
        (Word::Bare(bare), None) => Some(bare.to_ascii_lowercase()),
        (Word::Quoted(quoted), None) => Some(unquoted(quoted)),
        (Word::Semicolon | Word::Other, None) => None,
    }
}

fn unquoted(quoted: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let [first, more @ ..] = rest {
        name.push(*first);
        rest = if let (b'"', [b'"', after @ ..]) = (first, more) { after } else { more };
    }
    name
}

enum Word<'a> {
    /// An identifier or keyword.
    Bare(&'a [u8]),
    /// The inside of a quoted identifier, with its quotes still doubled.
    Quoted(&'a [u8]),
    Semicolon,
    /// Anything else: reading on makes no sense.
    Other,
}

/// Words, past white space and comments.
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Word<'a>> {
        if self.skip_blanks().is_none() {
            return Some(Word::Other);
        }
        let rest = self.rest;
        let (&first, behind) = rest.split_first()?;
        match first {
            b';' => {
                self.rest = behind;
                Some(Word::Semicolon)
            }
            b'"' => Some(self.quoted(behind)),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
                let is_part =
                    |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || *b >= 0x80;
                let end = rest.iter().position(|b| !is_part(b)).unwrap_or(rest.len());
                let (word, rest) = rest.split_at(end);
                self.rest = rest;
                // U&"..." is one identifier with escapes.
                Some(if matches!(rest.first(), Some(b'&')) {
                    Word::Other
                } else {
                    Word::Bare(word)
                })
            }
            _ => Some(Word::Other),
        }
    }

    /// A quoted identifier; its opening quote has been taken.
    fn quoted(&mut self, text: &'a [u8]) -> Word<'a> {
        let mut from = 0;
        while let Some(at) = text.get(from..).and_then(|t| memchr::memchr(b'"', t)) {
            let at = from + at;
            if text.get(at + 1) == Some(&b'"') {
                from = at + 2;
                continue;
            }
            let (inside, rest) = text.split_at(at);
            self.rest = rest.get(1..).unwrap_or_default();
            return if inside.is_empty() { Word::Other } else { Word::Quoted(inside) };
        }
        Word::Other
    }

    /// None if a comment has no end.
    fn skip_blanks(&mut self) -> Option<()> {
        loop {
            match self.rest {
                [b' ' | b'\t'..=b'\r', rest @ ..] => self.rest = rest,
                [b'-', b'-', rest @ ..] => {
                    let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    self.rest = rest.get(end..).unwrap_or_default();
                }
                [b'/', b'*', rest @ ..] => self.rest = behind_comment(rest)?,
                _ => return Some(()),
            }
        }
    }
}

/// What follows a comment whose opening has been taken. Comments nest.
fn behind_comment(mut rest: &[u8]) -> Option<&[u8]> {
    let mut depth = 1_usize;
    loop {
        rest = match rest {
            [b'*', b'/', after @ ..] => {
                depth -= 1;
                if depth == 0 {
                    return Some(after);
                }
                after
            }
            [b'/', b'*', after @ ..] => {
                depth += 1;
                after
            }
            [_, after @ ..] => after,
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgetting_word_is_found_anywhere_in_any_case() {
        for sql in ["deallocate a", "select 1; DISCARD ALL", "/* x */ DeAllocate all", "'discard'"]
        {
            assert!(may_forget_statements(sql.as_bytes()), "{sql}");
        }
        for sql in ["", "d", "select discar", "delete from deals", "dealloc"] {
            assert!(!may_forget_statements(sql.as_bytes()), "{sql}");
        }
    }

    #[test]
    fn the_name_is_read_as_postgres_reads_it() {
        for (sql, name) in [
            ("deallocate a", "a"),
            ("DEALLOCATE PREPARE Foo_1$ ;; ", "foo_1$"),
            ("/* a /* nested */ b */ deallocate -- c\n \"Mixed \"\"Case\"\"\"", "Mixed \"Case\""),
            ("deallocate prepare", "prepare"),
            ("deallocate prepare;", "prepare"),
            ("deallocate prepare \"all\"", "all"),
            ("deallocate\tpdo_stmt_00000001", "pdo_stmt_00000001"),
        ] {
            assert_eq!(deallocated_name(sql.as_bytes()).as_deref(), Some(name.as_bytes()), "{sql}");
        }
    }

    #[test]
    fn whatever_else_it_is_no_name_is_found() {
        for sql in [
            "",
            "deallocate",
            "deallocate all",
            "deallocate prepare ALL",
            "deallocate a; select 1",
            "deallocate a b",
            "deallocate 1",
            "deallocate \"\"",
            "deallocate \"a",
            "deallocate U&\"a\"",
            "deallocate a /* open",
            "deallocatea",
            "select 1",
            "deallocate 'a'",
        ] {
            assert_eq!(deallocated_name(sql.as_bytes()), None, "{sql}");
        }
    }
}

//! Text of a file into lines of words.
//!
//! Words are separated by blanks, commas make lists of them, double quotes take away their meaning,
//! `#` begins a comment, and a backslash at the end of a line goes on with the next one.

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Without its quotes.
    pub text: String,
    /// Whether it began with a quote: then it is a name, whatever it looks like.
    pub is_quoted: bool,
}

impl Word {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text == keyword
    }

    /// What follows a sign that gives a word its meaning.
    pub(super) fn behind(&self, sign: char) -> Option<&str> {
        self.text.strip_prefix(sign).filter(|rest| !self.is_quoted && !rest.is_empty())
    }
}

/// The fields of a line, each a list of words.
pub type Fields = Vec<Vec<Word>>;

/// The lines that have words, with the number of the first of those that each is made of. The error is
/// that of the line alone.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, Result<Fields, &'static str>)> {
    let mut rest = text.split('\n').enumerate();
    std::iter::from_fn(move || {
        loop {
            let (index, first) = rest.next()?;
            let mut line = first.trim_end_matches('\r').to_owned();
            while line.ends_with('\\') {
                line.pop();
                match rest.next() {
                    Some((_, more)) => line.push_str(more.trim_end_matches('\r')),
                    None => break,
                }
            }
            match fields(&line) {
                Ok(fields) if fields.is_empty() => {}
                read => return Some((index + 1, read)),
            }
        }
    })
}

fn fields(line: &str) -> Result<Fields, &'static str> {
    let mut fields = Fields::new();
    let mut characters = line.chars().peekable();
    // Behind a comma a list goes on, whatever blanks there are.
    let mut goes_on = false;
    loop {
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        match characters.peek() {
            None | Some('#') => break,
            Some(_) => {}
        }
        let word = word(&mut characters)?;
        match fields.last_mut() {
            Some(list) if goes_on => list.push(word),
            _ => fields.push(vec![word]),
        }
        goes_on = characters.next_if_eq(&',').is_some();
    }
    if goes_on { Err("a list ends with a comma") } else { Ok(fields) }
}

fn word(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Word, &'static str> {
    let is_quoted = characters.peek() == Some(&'"');
    let (mut text, mut inside) = (String::new(), false);
    while let Some(&character) = characters.peek() {
        if character == '"' {
            characters.next();
            // Two inside of quotes are one.
            if inside && characters.next_if_eq(&'"').is_some() {
                text.push('"');
            } else {
                inside = !inside;
            }
            continue;
        }
        if !inside && (character.is_whitespace() || matches!(character, ',' | '#')) {
            break;
        }
        text.push(character);
        characters.next();
    }
    if inside {
        return Err("a double quote is not closed");
    }
    if text.is_empty() && !is_quoted {
        return Err("a comma stands where a word is expected");
    }
    Ok(Word { text, is_quoted })
}

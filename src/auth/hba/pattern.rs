//! Names and regular expressions that names are compared with.

use regex_lite::{Regex, RegexBuilder};

use super::Word;

/// Bytes that a compiled expression may take.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;

/// A regular expression, compared by its text.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    text: String,
    compiled: Regex,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Expression {
    /// The expression that a word is, if it begins with a slash.
    pub(super) fn read(word: &Word) -> Option<Result<Self, String>> {
        let text = word.behind('/')?;
        let compiled = RegexBuilder::new(text).size_limit(EXPRESSION_BYTES_MAX).build();
        Some(match compiled {
            Ok(compiled) => Ok(Self { text: text.to_owned(), compiled }),
            Err(_) => Err(format!("the regular expression {text:?} cannot be read")),
        })
    }

    /// Whether it matches, anywhere unless it is anchored.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.compiled.is_match(name)
    }

    /// Its first group in a name that it matches; empty if it has none.
    pub(super) fn first_group<'n>(&self, name: &'n str) -> Option<&'n str> {
        let captures = self.compiled.captures(name)?;
        Some(captures.get(1).map_or("", |group| group.as_str()))
    }
}

/// What one word of a list of databases or users stands for, beside keywords.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pattern {
    Name(String),
    Expression(Expression),
}

impl Pattern {
    pub(super) fn read(word: &Word) -> Result<Self, String> {
        match Expression::read(word) {
            Some(expression) => expression.map(Self::Expression),
            None => Ok(Self::Name(word.text.clone())),
        }
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Expression(expression) => expression.matches(name),
        }
    }
}

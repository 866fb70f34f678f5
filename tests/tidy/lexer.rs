//! Just enough of Rust's lexical rules for `tidy`: what is code and what is not, where functions
//! begin and end, what is imported. It is wrong on nothing that this repository contains; macros
//! that make functions are beyond it.

/// A function: where it begins, and how many lines it has.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

/// The source with comments, strings and character literals blanked; every line stays where it is.
pub fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` if none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied().unwrap_or('\n');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let continues_word = at > 0 && is_word(chars[at - 1]);
    match chars[at] {
        '/' if next(1) == '/' => until(chars, at, |rest| rest[0] == '\n'),
        '/' if next(1) == '*' => block_comment_end(chars, at),
        '"' => string_end(chars, at + 1),
        'r' if !continues_word || chars[at - 1] == 'b' || chars[at - 1] == 'c' => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            if next(1 + hashes) != '"' {
                return at;
            }
            let close: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
            let body = at + hashes + 2;
            until(chars, body, |rest| rest.starts_with(&close)) + close.len()
        }
        // A lifetime has no closing quote behind its first character.
        '\'' if next(1) == '\\' => until(chars, at + 3, |rest| rest[0] == '\'') + 1,
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    }
}

/// The first position from `from` whose rest fits, or the end.
fn until(chars: &[char], from: usize, fits: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len()).find(|at| fits(&chars[*at..])).unwrap_or(chars.len())
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn block_comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) if depth == 1 => return at + 2,
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    chars.len()
}

/// Where the bracket opened at byte `open` is closed (the closing byte), or the end.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// The code without its test modules and test-only items: whatever a `#[cfg(...)]` that asks for
/// `test` stands before, up to the end of that item.
pub fn without_tests(code: &str) -> String {
    let mut kept = code.to_owned();
    let mut from = 0;
    while let Some(found) = kept[from..].find("#[cfg(") {
        let start = from + found;
        from = start + 1;
        let Some(condition) = kept[start..].find(")]").map(|end| &kept[start + 6..start + end])
        else {
            break;
        };
        let asks = condition.split(|c: char| !c.is_alphanumeric() && c != '_');
        if condition.contains("not(") || !asks.into_iter().any(|word| word == "test") {
            continue;
        }
        let end = item_end(&kept, start + condition.len() + 8);
        let blank: String =
            kept[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        kept.replace_range(start..end, &blank);
    }
    kept
}

/// The end of the item that begins at or behind `start`: its `;`, or its closing brace.
fn item_end(code: &str, start: usize) -> usize {
    match body_start(code, start) {
        Some(open) => (closing(code, open) + 1).min(code.len()),
        None => code[start..].find(';').map_or(code.len(), |end| start + end + 1),
    }
}

/// The `{` that opens the body of the item at `start`; `None` if it ends with `;` first. A `;` in
/// brackets is an array's.
fn body_start(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// All functions with a body, nested ones too.
pub fn functions(code: &str) -> Vec<Function> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name: String = code[at + 3..].chars().take_while(|c| is_word(*c)).collect();
        if name.is_empty() || code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        if let Some(open) = body_start(code, at) {
            let body = &code[at..closing(code, open)];
            let line = code[..at].matches('\n').count() + 1;
            found.push(Function { name, line, lines: body.matches('\n').count() + 1 });
        }
    }
    found
}

/// The first names behind `crate::`, also in braces; and behind `super::`, if that is the crate.
pub fn imports(code: &str, super_is_crate: bool) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let chained = code[..at].ends_with("::");
            if !chained && (root == "crate::" || super_is_crate) {
                found.extend(first_names(&code[at + root.len()..]));
            }
        }
    }
    found
}

fn first_names(path: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    if !path.starts_with('{') {
        return vec![word(path)];
    }
    let group = &path[1..closing(path, 0)];
    let mut depth = 0_usize;
    let mut names = vec![word(group)];
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => names.push(word(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

#[test]
fn what_is_no_code_is_blanked_in_place() {
    let source = "a('\\'', '{', b'\"', \"}\\\"}\", r#\"\"}\"#) /* { /* } */ { */ // {\n&'a x<'b>";
    let code = code_only(source);
    assert_eq!(code.chars().count(), source.chars().count());
    assert!(!code.contains(['{', '}', '"']), "{code}");
    assert!(code.contains("\n&'a x<'b>"), "{code}");
    assert_eq!(code_only("bar\"x\" for\"y\""), "bar    for   ");
}

#[test]
fn functions_are_measured_by_their_braces() {
    let code =
        "fn a(x: [u8; 2]) -> [u8; 2] {\n  fn b() {}\n}\ntrait T { fn c(); }\ntype F = fn(u8);\n";
    let function = |name: &str, line, lines| Function { name: name.to_owned(), line, lines };
    assert_eq!(functions(code), [function("a", 1, 3), function("b", 2, 1)]);
}

#[test]
fn test_code_is_left_out_and_the_rest_stays() {
    let code = "a;\n#[cfg(test)]\nmod tests { b { c } }\nd;\n#[cfg(all(test, x))]\nmod e;\n#[cfg(not(test))]\nf;";
    let kept = without_tests(code);
    assert_eq!(kept.split_whitespace().collect::<String>(), "a;d;#[cfg(not(test))]f;");
    assert_eq!(kept.lines().count(), code.lines().count());
}

#[test]
fn imports_are_found_in_all_forms() {
    let code =
        "use crate::a::B; use crate::{c, d::{e, f}, g as h}; crate::i::j(); $crate::k; super::l";
    assert_eq!(imports(code, false), ["a", "c", "d", "g", "i", "k"]);
    assert_eq!(imports("use super::l; use super::super::m;", true), ["l", "super"]);
}

//! Made-up violations: `tidy` must catch each kind, and leave what is allowed alone.

use super::*;

/// How many violations `check` finds in `source`, said to be src/`name`.
fn count(check: fn(&str, &str) -> Vec<String>, name: &str, source: &str) -> usize {
    check(name, source).len()
}

#[test]
fn the_layer_table_itself_points_upwards_only() {
    for (index, (own, allowed)) in LAYERS.iter().enumerate() {
        for room in allowed.split_whitespace() {
            let above = LAYERS[..index].iter().any(|(name, _)| *name == room);
            assert!(above, "`{own}` may name `{room}`, which is not above it");
        }
    }
}

#[test]
fn a_room_that_names_one_below_it_is_caught() {
    let check = layer_violations;
    assert_eq!(count(check, "pool/a.rs", "use crate::protocol::X;"), 1);
    let group = "use crate::{primitives::A, server, client::{B, C}};";
    assert_eq!(count(check, "pool/a.rs", group), 2);
    let relative = "use super::net::X; use super::shard::Y;";
    assert_eq!(count(check, "pool/mod.rs", relative), 1);
    assert_eq!(count(check, "newroom/a.rs", ""), 1);
    assert_eq!(count(check, "newfile.rs", ""), 1);
    let allowed = "// crate::net\nuse crate::pool::X;\nuse crate::primitives::Y;";
    assert_eq!(count(check, "pool/a.rs", allowed), 0);
}

#[test]
fn a_banned_call_is_caught_where_it_is_banned() {
    let check = ban_violations;
    let source = "fn f() { x.unwrap(); tokio::spawn(y); }";
    assert_eq!(count(check, "client/a.rs", source), 2);
    assert_eq!(count(check, "tasks.rs", source), 1);
    assert_eq!(count(check, "pool/loom_tests.rs", source), 0);
    let in_tests = format!("#[cfg(test)]\nmod tests {{ {source} }}");
    assert_eq!(count(check, "net/a.rs", &in_tests), 0);
    // In pieces, so that this file has none of it to do.
    let clocks = concat!("fn f() { Instant::now(); \"dbg!\"; to", "do!() }");
    assert_eq!(count(check, "pool/a.rs", clocks), 2);
    assert_eq!(count(check, "net/a.rs", clocks), 1);
    let prints = "fn f() { print!(); println!(); eprintln!(); print_all(); }";
    assert_eq!(count(check, "net/a.rs", prints), 3);
    assert_eq!(count(check, "cli/a.rs", prints), 0);
    let exit = "fn f() { std::process::exit(1) }";
    assert_eq!(count(check, "app.rs", exit), 1);
    assert_eq!(count(check, "main.rs", exit), 0);
}

#[test]
fn a_file_or_function_that_is_too_long_is_caught() {
    let check = size_violations;
    let line = "let _ = '{';\n";
    let long = format!("fn f() {{\n{}}}\nfn g() {{}}\n", line.repeat(69));
    assert_eq!(count(check, "net/a.rs", &long), 1);
    assert_eq!(count(check, "net/a.rs", &long.replacen(line, "", 1)), 0);
    assert_eq!(count(check, "net/a.rs", &"\n".repeat(701)), 1);
    assert_eq!(count(check, "net/a/tests.rs", &"\n".repeat(701)), 0);
    assert_eq!(count(check, "net/a/tests.rs", &"\n".repeat(1501)), 1);
}

#[test]
fn a_bad_header_line_or_word_is_caught() {
    assert_eq!(count(header_violations, "a.rs", "// no module comment"), 1);
    assert_eq!(count(header_violations, "a.rs", "//! What it is for."), 0);
    assert_eq!(count(text_violations, "a.rs", &"x".repeat(121)), 1);
    assert_eq!(count(text_violations, "a.rs", &"x".repeat(120)), 0);
    for (left, right) in FOREIGN_WORDS {
        let text = format!("see {left}{right}x");
        assert_eq!(count(text_violations, "a.md", &text), 1, "{text}");
    }
}

//! `auth_file`: users and secrets in the form of PgBouncer's `userlist.txt`.
//!
//! One user a line: `"name" "secret"`, a quote inside either written twice; what follows is
//! ignored. A line that begins with `;` or `#` is a comment. Must not know what `[users]` says.
//! Invariant: no error quotes anything of the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::{Diagnostic, Place, Problem, Warning, WarningKind};
use super::kinds::secret::{Password, Secret};
use super::load::mode_of;
use super::value::{Kind, Refusal, Value};

/// Largest file that is read, in bytes: some hundred thousand users.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The users of a file; a user with an empty secret has none and cannot log in by password.
pub(super) type FileUsers = BTreeMap<String, Option<Password>>;

/// Reads the file, or says all that is wrong with it. What is unwise goes to `warnings`.
pub(super) fn load(path: &Path, warnings: &mut Vec<Warning>) -> Result<FileUsers, Vec<Diagnostic>> {
    let name: Arc<str> = path.display().to_string().into();
    let whole = |problem| vec![Diagnostic { place: Place::File(name.clone()), problem }];
    let file = File::open(path).map_err(|e| whole(Problem::Read(e.kind())))?;
    let readable_by_all = mode_of(&file).filter(|mode| mode & 0o004 != 0);
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| whole(Problem::Read(e.kind())))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BYTES_MAX) {
        return Err(whole(Problem::AuthFile("the file is larger than 64 MiB")));
    }
    let users = parse(&bytes, &name)?;
    if let Some(mode) = readable_by_all.filter(|_| !users.is_empty()) {
        let kind = WarningKind::ReadableSecrets(mode);
        warnings.push(Warning { place: Place::File(name), kind });
    }
    Ok(users)
}

/// Reads text as if it stood in the file `name`. Of two lines for one user the last holds.
pub(super) fn parse(text: &[u8], name: &Arc<str>) -> Result<FileUsers, Vec<Diagnostic>> {
    let (mut users, mut diagnostics) = (FileUsers::new(), Vec::new());
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        match entry(line) {
            Ok(Some((user, secret))) => drop(users.insert(user, secret)),
            Ok(None) => {}
            Err((column, reason)) => diagnostics.push(Diagnostic {
                place: Place::At { file: name.clone(), line: index + 1, column },
                problem: Problem::AuthFile(reason),
            }),
        }
    }
    if diagnostics.is_empty() { Ok(users) } else { Err(diagnostics) }
}

/// What is wrong with a line, behind the column where it is.
type Fault = (usize, &'static str);

fn entry(line: &[u8]) -> Result<Option<(String, Option<Password>)>, Fault> {
    let line = match std::str::from_utf8(line) {
        Ok(line) => line,
        Err(error) => {
            let good = std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default();
            return Err((good.chars().count() + 1, "not UTF-8 text"));
        }
    };
    let rest = line.trim_start();
    if rest.is_empty() || rest.starts_with([';', '#']) {
        return Ok(None);
    }
    let column = |rest: &str| line[..line.len() - rest.len()].chars().count() + 1;
    let user_column = column(rest);
    let (user, rest) = quoted(rest).map_err(|reason| (user_column, reason))?;
    if user.is_empty() {
        return Err((user_column, "a user's name must not be empty"));
    }
    let rest = rest.trim_start();
    let secret_column = column(rest);
    let (secret, _) = quoted(rest).map_err(|reason| (secret_column, reason))?;
    if secret.is_empty() {
        return Ok(Some((user.as_str().to_owned(), None)));
    }
    let secret = Secret.read(&Value::Text(secret)).map_err(|refusal| {
        let reason = match refusal {
            Refusal::Because(reason) => reason,
            _ => "the secret is neither a password nor a whole hash or verifier",
        };
        (secret_column, reason)
    })?;
    Ok(Some((user.as_str().to_owned(), Some(secret))))
}

/// A text in double quotes, and what follows it.
fn quoted(text: &str) -> Result<(Zeroizing<String>, &str), &'static str> {
    const EXPECTED: &str = "expected \"user\" \"secret\", both in double quotes";
    let mut rest = text.strip_prefix('"').ok_or(EXPECTED)?;
    let mut read = Zeroizing::new(String::with_capacity(text.len()));
    loop {
        let (piece, after) = rest.split_once('"').ok_or("a double quote is not closed")?;
        read.push_str(piece);
        match after.strip_prefix('"') {
            Some(more) => {
                read.push('"');
                rest = more;
            }
            None if read.contains('\0') => return Err("no text may hold NUL"),
            None => return Ok((read, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, Vec<String>> {
        let parsed = parse(text.as_bytes(), &Arc::from("userlist.txt"));
        let shown = |secret: Option<Password>| {
            secret.map_or_else(|| "(none)".to_owned(), |secret| secret.expose().to_owned())
        };
        match parsed {
            Ok(users) => Ok(users.into_iter().map(|(user, s)| (user, shown(s))).collect()),
            Err(faults) => Err(faults.iter().map(Diagnostic::to_string).collect()),
        }
    }

    fn pairs(expected: &[(&str, &str)]) -> Result<Vec<(String, String)>, Vec<String>> {
        Ok(expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
    }

    #[test]
    fn users_and_secrets_of_every_form_are_read() {
        let verifier = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";
        let md5 = "md5d41d8cd98f00b204e9800998ecf8427e";
        let text = format!(
            "; a comment\n# another\n\n\"ann\" \"plain\"\r\n  \"bob\"\t\"{md5}\" ignored\n\
             \"carl\"\"s\" \"{verifier}\"\n\"dora\" \"say \"\"hi\"\"\"\n\"eve\" \"\"\n\
             \"ann\" \"the last holds\""
        );
        let expected = [
            ("ann", "the last holds"),
            ("bob", md5),
            ("carl\"s", verifier),
            ("dora", "say \"hi\""),
            ("eve", "(none)"),
        ];
        assert_eq!(read(&text), pairs(&expected));
        assert_eq!(read(""), pairs(&[]));
    }

    #[test]
    fn every_bad_line_is_named_and_nothing_is_quoted() {
        let text = "\"good\" \"secret\"\nhunter2 \"x\"\n\"a\" hunter2\n  \"a\" \"hunter2\n\
                    \"\" \"hunter2\"\n\"a\" \"SCRAM-SHA-256$hunter2\"\n\"a\"\n\"h\u{e9}\" hunter2";
        let faults = read(text).unwrap_err();
        let places = ["2:1", "3:5", "4:7", "5:1", "6:5", "7:4", "8:6"];
        assert_eq!(faults.len(), places.len(), "{faults:?}");
        for (fault, place) in faults.iter().zip(places) {
            assert!(fault.starts_with(&format!("userlist.txt:{place}: ")), "{fault} {place}");
            assert!(!fault.contains("hunter2"), "{fault}");
        }
        let faults = parse(b"\"a\" \"\xff\"\n\"b\" \"\0\"", &Arc::from("f")).unwrap_err();
        let shown: Vec<_> = faults.iter().map(Diagnostic::to_string).collect();
        assert_eq!(shown, ["f:1:6: not UTF-8 text", "f:2:5: no text may hold NUL"]);
    }
}

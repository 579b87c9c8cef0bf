//! Files of variables: `.env`, `--env-file`, `env_file`, `label_file`.
//!
//! One `NAME=value` a line, also `NAME: value` and with `export ` before it. Lines that begin with `#` are comments, and
//! so is what stands behind ` #` of a value without quotes. In single quotes a value is taken as it is; in double quotes
//! it has escapes and variables, as it has without quotes. Quoted values may have several lines. A name alone takes the
//! value that it has in the environment. Later lines see what earlier ones set; the environment wins over both.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    fault::Findings,
    interpolate::{self, Lookup},
    parse::Budget,
    value::Place,
};

/// Reads a file's variables into `values`. Faults name its lines; what was read before them is kept.
pub(super) fn read(
    file: &str,
    text: &str,
    look: &Lookup<'_>,
    values: &mut BTreeMap<String, String>,
    budget: &mut Budget,
    found: &mut Findings,
) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { file: file.into(), rest: text, line: 1, look, values, budget, found };
    loop {
        match reader.statement() {
            Ok(true) => {}
            Ok(false) => break,
            Err((line, message)) => {
                let place = Place { file: Arc::clone(&reader.file), line, column: 1 };
                reader.found.fault(&place, "", message);
                break;
            }
        }
    }
}

/// Reads a file in the format `raw`: a name and a value a line, taken as they are.
pub(super) fn read_raw(text: &str, look: &Lookup<'_>, values: &mut BTreeMap<String, String>) {
    for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once('=') {
            Some((name, value)) => {
                values.insert(name.to_owned(), value.to_owned());
            }
            None => {
                if let Some(value) = look(line) {
                    values.insert(line.to_owned(), value);
                }
            }
        }
    }
}

struct Reader<'a> {
    file: Arc<str>,
    rest: &'a str,
    line: u32,
    look: &'a Lookup<'a>,
    values: &'a mut BTreeMap<String, String>,
    budget: &'a mut Budget,
    found: &'a mut Findings,
}

impl<'a> Reader<'a> {
    /// Reads one statement; false at the end.
    fn statement(&mut self) -> Result<bool, (u32, String)> {
        loop {
            let trimmed = self.rest.trim_start_matches(|c: char| c.is_whitespace() && c != '\n');
            if let Some(rest) = trimmed.strip_prefix('\n') {
                self.line += 1;
                self.rest = rest;
            } else if trimmed.starts_with('#') {
                self.rest = trimmed.find('\n').map_or("", |at| &trimmed[at..]);
            } else {
                self.rest = trimmed;
                break;
            }
        }
        if self.rest.is_empty() {
            return Ok(false);
        }
        let at = self.line;
        if let Some(rest) = self.rest.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])) {
            self.rest = rest.trim_start_matches([' ', '\t']);
        }
        let end = self.rest.find(['=', ':', '\n']).unwrap_or(self.rest.len());
        let name = self.rest[..end].trim();
        let sound = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']');
        if name.is_empty() || !name.chars().all(sound) {
            let shown: String = self.rest.lines().next().unwrap_or_default().chars().take(40).collect();
            return Err((at, format!("\"{shown}\" is no variable: write NAME=value, or put # before a comment")));
        }
        self.budget.nodes(1).map_err(|why| (at, why))?;
        let value = match self.rest[end..].chars().next() {
            None | Some('\n') => {
                self.rest = &self.rest[end..];
                (self.look)(name)
            }
            Some(_) => {
                self.rest = self.rest[end + 1..].trim_start_matches(|c: char| c.is_whitespace() && c != '\n');
                Some(self.value(name, at)?)
            }
        };
        if let Some(value) = value {
            self.budget.text(value.len()).map_err(|why| (at, why))?;
            self.values.insert(name.to_owned(), value);
        }
        Ok(true)
    }

    fn value(&mut self, name: &str, at: u32) -> Result<String, (u32, String)> {
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let Some(quote) = quote else {
            let line = self.rest.split('\n').next().unwrap_or_default();
            self.rest = &self.rest[line.len()..];
            let value = line.find(" #").or_else(|| line.find("\t#")).map_or(line, |at| &line[..at]);
            return self.expand(value.trim_end(), name, at);
        };
        let body = &self.rest[1..];
        let mut out = String::new();
        let mut chars = body.char_indices();
        while let Some((index, c)) = chars.next() {
            match c {
                '\n' => {
                    self.line += 1;
                    out.push(c);
                }
                '\\' => match (quote, chars.next()) {
                    ('\'', Some((_, '\''))) => out.push('\''),
                    ('"', Some((at, escaped))) => {
                        if escape(escaped, &body[at..], &mut out) {
                            chars.by_ref().take(3).for_each(drop);
                        }
                    }
                    (_, other) => {
                        out.push('\\');
                        out.extend(other.map(|(_, c)| c));
                    }
                },
                _ if c == quote => {
                    self.rest = &body[index + 1..];
                    self.nothing_more(name)?;
                    return if quote == '"' { self.expand(&out, name, at) } else { Ok(out) };
                }
                _ => out.push(c),
            }
        }
        Err((at, format!("the value of {name} begins with {quote} and has no {quote} at its end")))
    }

    /// Behind a closing quote stands a comment at most.
    fn nothing_more(&mut self, name: &str) -> Result<(), (u32, String)> {
        let line = self.rest.split('\n').next().unwrap_or_default();
        self.rest = &self.rest[line.len()..];
        match line.trim() {
            rest if rest.is_empty() || rest.starts_with('#') => Ok(()),
            rest => {
                let rest: String = rest.chars().take(40).collect();
                Err((self.line, format!("behind the quoted value of {name} stands \"{rest}\": begin a new line")))
            }
        }
    }

    fn expand(&mut self, text: &str, name: &str, at: u32) -> Result<String, (u32, String)> {
        let (look, values) = (self.look, &*self.values);
        let look = |name: &str| look(name).or_else(|| values.get(name).cloned());
        let mut unset = Vec::new();
        let value = interpolate::substitute(text, &look, &mut unset);
        let place = Place { file: Arc::clone(&self.file), line: at, column: 1 };
        for missing in unset {
            self.found.warn(&place, name, format!("the variable {missing} is not set: an empty text takes its place"));
        }
        value.map_err(|wrong| (at, wrong.message()))
    }
}

/// Writes an escape of a double quoted value; true if three octal digits behind it belong to it.
fn escape(c: char, rest: &str, out: &mut String) -> bool {
    let plain = match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '"' | '\\' => c,
        '$' => {
            // It is put in once more: a doubled one stays a dollar.
            out.push_str("$$");
            return false;
        }
        '0' => {
            let code = rest.get(1..4).and_then(|digits| u32::from_str_radix(digits, 8).ok()).and_then(char::from_u32);
            if let Some(code) = code {
                out.push(code);
                return true;
            }
            out.push_str("\\0");
            return false;
        }
        other => {
            out.push('\\');
            other
        }
    };
    out.push(plain);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Vec<(String, String)>, Vec<String>) {
        let (mut values, mut found) = (BTreeMap::new(), Findings::default());
        let look = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
        read(".env", text, &look, &mut values, &mut Budget::default(), &mut found);
        (values.into_iter().collect(), found.faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_grammar() {
        let rows = [
            ("A=1", "1"),
            ("\u{feff}A=1\r\n", "1"),
            ("# c\n\n  export A = 1  ", "1"),
            ("A: 1", "1"),
            ("A=", ""),
            ("A=a b # c", "a b"),
            ("A=a#b", "a#b"),
            ("A='$HOME # \\n' # c", "$HOME # \\n"),
            ("A='it\\'s'", "it's"),
            ("A=\"$HOME\\t\\$HOME \\\"q\\\" \\0101 \\q\"", "/home/u\t$HOME \"q\" A \\q"),
            ("A=\"one\ntwo\"\nB=1", "one\ntwo"),
            ("A=${HOME}/x:${NO:-d}", "/home/u/x:d"),
            ("Z=3\nA=$Z$Z", "33"),
            ("HOME=mine\nA=$HOME", "/home/u"),
            ("A=1\nA=2", "2"),
            ("A=$$X", "$X"),
            ("A='{\"k\": \"v\"}'", "{\"k\": \"v\"}"),
        ];
        for (text, wanted) in rows {
            let (values, faults) = of(text);
            assert_eq!(values[0], ("A".to_owned(), wanted.to_owned()), "{text:?}");
            assert_eq!(faults, [""; 0], "{text:?}");
        }
        assert_eq!(of("HOME\nNONE\n").0, [("HOME".to_owned(), "/home/u".to_owned())]);
    }

    #[test]
    fn faults_name_the_line() {
        let rows = [
            (
                "A=1\nwhat is this\n",
                ".env:2:1: \"what is this\" is no variable: write NAME=value, or put # before a comment",
            ),
            ("\nA='x\ny", ".env:2:1: the value of A begins with ' and has no ' at its end"),
            ("A='x\ny' z", ".env:2:1: behind the quoted value of A stands \"z\": begin a new line"),
            ("A=${B:?give B}", ".env:1:1: the variable B must have a value: give B"),
            ("=x", ".env:1:1: \"=x\" is no variable: write NAME=value, or put # before a comment"),
        ];
        for (text, wanted) in rows {
            assert_eq!(of(text).1, [wanted], "{text:?}");
        }
    }

    #[test]
    fn raw_is_taken_as_it_is() {
        let mut values = BTreeMap::new();
        read_raw("# c\nA='$X' # y\nHOME\nNONE\n", &|name| (name == "HOME").then(|| "h".to_owned()), &mut values);
        assert_eq!(
            values.into_iter().collect::<Vec<_>>(),
            [("A".to_owned(), "'$X' # y".to_owned()), ("HOME".to_owned(), "h".to_owned())]
        );
    }
}

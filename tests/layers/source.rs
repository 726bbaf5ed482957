//! Rust source, read just well enough: which words are code, who is named, how long things are.

use std::path::{Path, PathBuf};

/// One file of the library.
pub struct Source {
    /// From `src/`, with slashes.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Without comments, and with empty strings; the lines are where they were.
    pub code: String,
}

impl Source {
    /// The module of the top level that the file belongs to.
    pub fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or(&self.path);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Whether the file holds nothing but tests.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The code without its `#[cfg(test)] mod … { … }`.
    pub fn untested(&self) -> String {
        let mut out = self.code.clone();
        while let Some(start) = out.find("#[cfg(test)]\nmod ") {
            let open = out[start..]
                .find(['{', ';'])
                .map_or(out.len(), |at| start + at);
            let end = match out[open..].starts_with('{') {
                true => closing(&out, open),
                false => open + 1,
            };
            out.replace_range(start..end.min(out.len()), "");
        }
        out
    }

    /// The top-level modules that the code names through `crate::`.
    pub fn named(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            let rest = &self.code[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(_) => names.extend(heads(&rest[1..closing(rest, 0) - 1])),
                None => names.push(word(rest)),
            }
        }
        names.sort();
        names.dedup();
        names.retain(|name| name.chars().next().is_some_and(char::is_lowercase));
        names
    }

    /// Whether the code names the crate `name`.
    pub fn uses(&self, name: &str) -> bool {
        self.code.match_indices(name).any(|(at, _)| {
            let before = self.code[..at].chars().next_back();
            let after = &self.code[at + name.len()..];
            let starts = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
            let is_use = self.code[..at].ends_with("use ") && after.starts_with([';', ' ']);
            // `crate::fs::url::…` and fields are something else; `::url` alone is the crate.
            starts && (after.starts_with("::") || is_use)
        })
    }

    /// Every function with its first line and its number of lines.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            let before = self.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let Some(open) = self.code[at..].find(['{', ';']).map(|n| at + n) else {
                continue;
            };
            if self.code[open..].starts_with(';') {
                continue;
            }
            let end = closing(&self.code, open);
            let lines = self.code[at..end].matches('\n').count() + 1;
            let first = self.code[..at].matches('\n').count() + 1;
            found.push((word(&self.code[at + 3..]), first, lines));
        }
        found
    }
}

/// Every `.rs` file beneath `root`.
pub fn all(root: &Path) -> Vec<Source> {
    let mut left = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push(Source {
                    path: path
                        .strip_prefix(root)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                    code: code(&text),
                    text,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The first words of a use group's members: `a::{b, c}, d` gives `a` and `d`.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut starts = true;
    let mut names = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            c if starts && !c.is_whitespace() => {
                names.push(word(&group[at..]));
                starts = false;
            }
            _ => {}
        }
    }
    names
}

/// Where the bracket that opens at `open` is closed: just behind it.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// Takes comments out and empties strings and characters; keeps every line end.
pub fn code(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skipped(&bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        out.extend(bytes[at..end].iter().filter(|c| **c == '\n'));
        at = end;
    }
    out
}

/// The end of the comment, string or character that begins at `at`; `at` itself if none does.
fn skipped(text: &[char], at: usize) -> usize {
    let next = |n: usize| text.get(at + n).copied().unwrap_or(' ');
    let find = |from: usize, what: &[char]| {
        let tail = text.get(from..).unwrap_or_default();
        let found = tail.windows(what.len()).position(|w| w == what);
        found.map_or(text.len(), |n| from + n + what.len())
    };
    match text[at] {
        '/' if next(1) == '/' => find(at, &['\n']) - 1,
        '/' if next(1) == '*' => find(at + 2, &['*', '/']),
        'r' if at > 0
            && (text[at - 1].is_alphanumeric() || text[at - 1] == '_')
            && next(1) == '"'
            && text[at - 1] != 'b' =>
        {
            at
        }
        'r' if next(1) == '"' => find(at + 2, &['"']),
        'r' if next(1) == '#' && next(2) == '"' => find(at + 3, &['"', '#']),
        'r' if next(1) == '#' && next(2) == '#' && next(3) == '"' => find(at + 4, &['"', '#', '#']),
        '"' => quoted(text, at, '"'),
        // A character, not a lifetime.
        '\'' if next(1) == '\\' || next(2) == '\'' => quoted(text, at, '\''),
        _ => at,
    }
}

fn quoted(text: &[char], at: usize, quote: char) -> usize {
    let mut end = at + 1;
    while end < text.len() && text[end] != quote {
        end += if text[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(text.len())
}

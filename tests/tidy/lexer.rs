//! Just enough of Rust's lexical grammar to tell code from comments and
//! literals, to find the end of a function and to leave tests out. It does not
//! parse Rust.

/// `source` with comments and the insides of string and character literals
/// replaced by spaces. Lines stay where they are.
pub(crate) fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = Vec::with_capacity(chars.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out.into_iter().collect()
}

/// End of the comment or literal that starts at `at`, or `at` where none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied();
    let after_word = at > 0 && is_word(chars[at - 1]);
    match chars[at] {
        '/' if next(1) == Some('/') => find(chars, at, |c| c == '\n'),
        '/' if next(1) == Some('*') => block_comment_end(chars, at),
        '"' => string_end(chars, at + 1),
        'r' | 'b' if !after_word => {
            let start = at + usize::from(chars[at] == 'b' && next(1) == Some('r'));
            if chars[at] == 'b' && next(1) == Some('"') {
                return string_end(chars, at + 2);
            }
            let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
            let opens = chars.get(start + 1 + hashes) == Some(&'"') && chars[start] == 'r';
            if opens { raw_string_end(chars, start + 2 + hashes, hashes) } else { at }
        }
        '\'' => char_end(chars, at),
        _ => at,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn find(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&at| stop(chars[at])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], mut at: usize, hashes: usize) -> usize {
    let closes = |at: usize| {
        chars[at] == '"'
            && chars[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    while at < chars.len() && !closes(at) {
        at += 1;
    }
    (at + 1 + hashes).min(chars.len())
}

/// A character literal, as opposed to a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => find(chars, at + 3, |c| c == '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

/// A function: its name, its first line (from 1) and its number of lines.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// The functions with a body in `code` (see [`code_only`]).
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        if code[..start].ends_with(is_word) {
            continue;
        }
        let name: String = code[start + 3..].chars().take_while(|&c| is_word(c)).collect();
        if name.is_empty() {
            continue; // a function pointer type
        }
        if let Some(end) = item_end(code, start).filter(|&end| code[..end].ends_with('}')) {
            let line = 1 + code[..start].matches('\n').count();
            let lines = 1 + code[start..end].matches('\n').count();
            found.push(Function { name, line, lines });
        }
    }
    found
}

/// Where the item that starts at `start` ends: after its closing brace, or after
/// its semicolon.
fn item_end(code: &str, start: usize) -> Option<usize> {
    let (mut round, mut curly) = (0_i32, 0_i32);
    for (at, c) in code[start..].char_indices() {
        match c {
            '(' | '[' => round += 1,
            ')' | ']' => round -= 1,
            '{' => curly += 1,
            '}' => curly -= 1,
            _ => {}
        }
        if matches!(c, '}' | ';') && curly == 0 && round == 0 {
            return Some(start + at + 1);
        }
    }
    None
}

const CFG_TEST: &str = "#[cfg(test)]";

/// `code` with every item under `#[cfg(test)]` replaced by spaces.
pub(crate) fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find(CFG_TEST) {
        let end = item_end(&out, start + CFG_TEST.len()).unwrap_or(out.len());
        let blank: String =
            out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
    }
    out
}

/// Names of the modules that `source` declares under `#[cfg(test)]` and keeps in
/// a file of their own.
pub(crate) fn test_modules(source: &str) -> Vec<String> {
    let code = code_only(source);
    let declared = code.match_indices(CFG_TEST).filter_map(|(start, _)| {
        let end = item_end(&code, start + CFG_TEST.len())?;
        let item = code[start..end].strip_suffix(';')?;
        Some(item.rsplit_once("mod ")?.1.trim().to_owned())
    });
    declared.collect()
}

#[test]
fn comments_and_literals_are_not_code() {
    let source = "a /* x /* y */ z */ b // c\n\"d \\\" e\" 'f' '\\'' 'life r#\"g \" h\"# i";
    let code: Vec<String> = code_only(source).split_whitespace().map(str::to_owned).collect();
    assert_eq!(code, ["a", "b", "'life", "i"]);
    assert_eq!(code_only(source).lines().count(), source.lines().count());
}

#[test]
fn a_function_is_measured_to_its_own_brace() {
    let source = "trait T { fn no_body(&self, x: [u8; 2]); }\nfn one(f: fn (u8)) -> u8 {\n  if x { y }\n  z(\"}\")\n}\n";
    let found = functions(&code_only(source));
    let found: Vec<(&str, usize, usize)> =
        found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
    assert_eq!(found, [("one", 2, 4)]);
}

#[test]
fn tests_are_left_out() {
    let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { HashMap::new() }\n}\n#[cfg(test)]\nmod far_tests;\nfn c() {}\n";
    let code = without_tests(&code_only(source));
    assert!(!code.contains("HashMap") && code.contains("fn c"), "{code}");
    assert_eq!(test_modules(source), ["far_tests"]);
}

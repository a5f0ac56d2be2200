//! Tokens of PTX.

/// A token; names borrow from the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    /// An identifier or register name: letters, digits, `_`, `$`, `%`.
    Name(&'a str),
    /// A dotted word without its dot: directive, modifier, type or register component.
    Dotted(&'a str),
    /// An integer literal.
    Integer(u64),
    /// `0f` and eight hexadecimal digits.
    F32(u32),
    /// `0d` and sixteen hexadecimal digits, or a decimal with a point.
    F64(u64),
    /// A quoted string without its quotes.
    Text(&'a str),
    /// Any other character.
    Mark(char),
    /// End of the text.
    End,
}

/// A token with its line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lexeme<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

fn is_name(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%')
}

/// Splits a text into tokens; an error is a line and a message.
pub(crate) fn lex(text: &str) -> Result<Vec<Lexeme<'_>>, (u32, String)> {
    let bytes = text.as_bytes();
    let mut lexemes = Vec::new();
    let mut at = 0;
    let mut line = 1;
    let run = |from: usize, keep: &dyn Fn(u8) -> bool| {
        bytes[from..]
            .iter()
            .position(|c| !keep(*c))
            .map_or(bytes.len(), |n| from + n)
    };
    while at < bytes.len() {
        let c = bytes[at];
        let next = bytes.get(at + 1).copied().unwrap_or(0);
        let token = match c {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            _ if c.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if next == b'/' => {
                at = run(at, &|c| c != b'\n');
                continue;
            }
            b'/' if next == b'*' => {
                let Some(length) = text[at + 2..].find("*/") else {
                    return Err((line, "a comment that does not end".into()));
                };
                line += text[at..at + 2 + length].matches('\n').count() as u32;
                at += length + 4;
                continue;
            }
            b'"' => {
                let Some(length) = text[at + 1..].find(['"', '\n']) else {
                    return Err((line, "a string that does not end".into()));
                };
                let content = &text[at + 1..at + 1 + length];
                if bytes[at + 1 + length] != b'"' {
                    return Err((line, "a string that does not end on its line".into()));
                }
                at += length + 2;
                Token::Text(content)
            }
            b'.' if is_name(next) => {
                let end = run(at + 1, &|c| is_name(c) || c == b':');
                // A label may follow a directive; only `::` belongs to a modifier (`.L2::128B`).
                let word = text[at + 1..end].trim_end_matches(':');
                at += 1 + word.len();
                Token::Dotted(word)
            }
            b'0'..=b'9' => {
                let mut end = run(at, &|c| c.is_ascii_alphanumeric());
                if bytes.get(end) == Some(&b'.')
                    && bytes.get(end + 1).is_some_and(u8::is_ascii_digit)
                {
                    end = run(end + 1, &|c| c.is_ascii_alphanumeric());
                }
                let word = &text[at..end];
                at = end;
                number(word).ok_or_else(|| (line, format!("{word:?} is no number")))?
            }
            _ if is_name(c) => {
                let end = run(at, &is_name);
                let word = &text[at..end];
                at = end;
                Token::Name(word)
            }
            _ if c.is_ascii() => {
                at += 1;
                Token::Mark(char::from(c))
            }
            _ => {
                let c = text[at..].chars().next().unwrap_or('?');
                return Err((line, format!("unexpected character {c:?}")));
            }
        };
        lexemes.push(Lexeme { token, line });
    }
    lexemes.push(Lexeme {
        token: Token::End,
        line,
    });
    Ok(lexemes)
}

fn number(word: &str) -> Option<Token<'static>> {
    let hex = |digits: &str, length: usize| -> Option<u64> {
        (digits.len() == length && digits.bytes().all(|c| c.is_ascii_hexdigit()))
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
    };
    if let Some(digits) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
        return hex(digits, 8).map(|bits| Token::F32(bits as u32));
    }
    if let Some(digits) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D")) {
        return hex(digits, 16).map(Token::F64);
    }
    if word.contains('.') {
        return word
            .parse::<f64>()
            .ok()
            .map(|value| Token::F64(value.to_bits()));
    }
    let plain = word.strip_suffix(['U', 'u']).unwrap_or(word);
    let parse = |digits: &str, radix| u64::from_str_radix(digits, radix).ok();
    let value = if let Some(digits) = plain
        .strip_prefix("0x")
        .or_else(|| plain.strip_prefix("0X"))
    {
        parse(digits, 16)
    } else if let Some(digits) = plain
        .strip_prefix("0b")
        .or_else(|| plain.strip_prefix("0B"))
    {
        parse(digits, 2)
    } else if plain.len() > 1 && plain.starts_with('0') {
        parse(&plain[1..], 8)
    } else {
        parse(plain, 10)
    };
    value.map(Token::Integer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        lex(text)
            .expect("lexes")
            .into_iter()
            .map(|l| l.token)
            .collect()
    }

    #[test]
    fn splits_an_instruction() {
        use Token::*;
        let expected = vec![
            Mark('@'),
            Mark('!'),
            Name("%p1"),
            Name("ld"),
            Dotted("global"),
            Dotted("L2::128B"),
            Dotted("f32"),
            Name("%f1"),
            Mark(','),
            Mark('['),
            Name("%rd1"),
            Mark('+'),
            Integer(16),
            Mark(']'),
            Mark(';'),
            End,
        ];
        assert_eq!(
            tokens("@!%p1 ld.global.L2::128B.f32 %f1, [%rd1+16]; // tail"),
            expected
        );
    }

    #[test]
    fn reads_every_kind_of_number() {
        use Token::*;
        let expected = vec![
            Integer(255),
            Integer(8),
            Integer(5),
            Integer(7),
            F32(0x3f80_0000),
            F64(1.5f64.to_bits()),
            End,
        ];
        assert_eq!(
            tokens("0xFF 010 0b101 7U 0f3F800000 0d3FF8000000000000"),
            expected
        );
        assert!(lex("0f3F8").is_err());
        assert!(lex("0x").is_err());
    }

    #[test]
    fn counts_lines_through_comments() {
        let lexemes = lex("a\n/* x\n y */ b").expect("lexes");
        assert_eq!(lexemes[1].line, 3);
        assert!(lex("/* x").is_err());
        assert!(lex("\"x").is_err());
    }
}

//! The line form that all three text forms are made of:
//!
//! ```text
//! v3 = linear v2 w5 bias=w6 : tokens x 960
//! ```
//!
//! A line is an optional result, a word, operands, `key=value` attributes and an optional type after `:`.
//! Quoted strings hold anything. `#` begins a comment.

use crate::IrError;
use crate::handle::Handle;
use std::cell::Cell;
use std::fmt;

/// One line, as words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Line {
    /// Line number from 1, for errors.
    pub number: usize,
    /// What stands before `=`.
    pub result: Option<String>,
    /// The word that says what the line is.
    pub op: String,
    /// Operands.
    pub args: Vec<String>,
    /// Attributes in order.
    pub attrs: Vec<(String, String)>,
    /// What stands after `:`.
    pub kind: Option<String>,
    /// The attributes that were asked for, a bit each: what is left over is unknown.
    read: Cell<u128>,
}

/// Attributes that a line may have.
const MAX_ATTRS: usize = u128::BITS as usize;

impl Line {
    /// A line with an op.
    pub fn new(op: &str) -> Self {
        Self { op: op.into(), ..Self::default() }
    }
    /// Sets the result.
    pub fn result(mut self, result: impl fmt::Display) -> Self {
        self.result = Some(result.to_string());
        self
    }
    /// Adds an operand.
    pub fn arg(mut self, arg: impl fmt::Display) -> Self {
        self.args.push(arg.to_string());
        self
    }
    /// Adds operands.
    pub fn args<T: fmt::Display>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.to_string()));
        self
    }
    /// Adds an attribute.
    pub fn attr(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.attrs.push((key.into(), value.to_string()));
        self
    }
    /// Adds an attribute unless it is `default`.
    pub fn attr_unless<T: fmt::Display + PartialEq>(self, key: &str, value: T, default: T) -> Self {
        if value == default { self } else { self.attr(key, value) }
    }
    /// Sets the type.
    pub fn kind(mut self, kind: impl fmt::Display) -> Self {
        self.kind = Some(kind.to_string());
        self
    }

    /// An error at this line.
    pub fn error(&self, why: impl Into<String>) -> IrError {
        IrError::Parse { line: self.number, why: why.into() }
    }
    /// Operand `ix` as a handle.
    pub fn handle<H: Handle>(&self, ix: usize) -> Result<H, IrError> {
        let text = self.args.get(ix).ok_or_else(|| self.error(format!("`{}` needs operand {}", self.op, ix + 1)))?;
        H::parse(text).ok_or_else(|| self.error(format!("expected {}N, found {text:?}", H::PREFIX)))
    }
    /// All operands as handles.
    pub fn handles<H: Handle>(&self) -> Result<Vec<H>, IrError> {
        (0..self.args.len()).map(|ix| self.handle(ix)).collect()
    }
    /// An attribute's text, if present.
    pub fn get(&self, key: &str) -> Option<&str> {
        let ix = self.attrs.iter().position(|(name, _)| name == key)?;
        self.mark(ix);
        Some(&self.attrs[ix].1)
    }
    /// Notes that attribute `ix` is known.
    pub fn mark(&self, ix: usize) {
        if ix < MAX_ATTRS {
            self.read.set(self.read.get() | 1 << ix);
        }
    }
    /// Once a line is read: an error that names the first attribute that nothing asked for.
    pub fn finish(&self) -> Result<(), IrError> {
        for (ix, (key, _)) in self.attrs.iter().enumerate() {
            if self.attrs[..ix].iter().any(|(other, _)| other == key) {
                return Err(self.error(format!("{key}= stands twice")));
            }
            if ix >= MAX_ATTRS || self.read.get() >> ix & 1 == 0 {
                return Err(self.error(format!("`{}` has no attribute {key}=", self.op)));
            }
        }
        Ok(())
    }
    /// An attribute that parses, or an error.
    pub fn value<T: std::str::FromStr>(&self, key: &str) -> Result<T, IrError> {
        let text = self.get(key).ok_or_else(|| self.error(format!("`{}` needs {key}=", self.op)))?;
        text.parse().map_err(|_| self.error(format!("{key}={text} is no valid value")))
    }
    /// An attribute that parses, or the default if it is absent.
    pub fn value_or<T: std::str::FromStr>(&self, key: &str, default: T) -> Result<T, IrError> {
        if self.get(key).is_some() { self.value(key) } else { Ok(default) }
    }
    /// An attribute as a handle, if present.
    pub fn handle_attr<H: Handle>(&self, key: &str) -> Result<Option<H>, IrError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        H::parse(text).map(Some).ok_or_else(|| self.error(format!("expected {key}={}N, found {text:?}", H::PREFIX)))
    }
    /// A comma list of handles in an attribute.
    pub fn handle_list<H: Handle>(&self, key: &str) -> Result<Vec<H>, IrError> {
        let text = self.get(key).unwrap_or("");
        let items = text.split(',').filter(|item| !item.is_empty());
        items
            .map(|item| {
                H::parse(item).ok_or_else(|| self.error(format!("expected {}N in {key}, found {item:?}", H::PREFIX)))
            })
            .collect()
    }
}

/// Whether a word needs quotes.
fn is_plain(word: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-+,/@()*<>[]".contains(c);
    !word.is_empty() && word.chars().all(ok)
}

struct Word<'a>(&'a str);
impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted as JSON, since that is how strings are read.
        if is_plain(self.0) {
            f.write_str(self.0)
        } else {
            f.write_str(&serde_json::to_string(self.0).map_err(|_| fmt::Error)?)
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(result) = &self.result {
            write!(f, "{result} = ")?;
        }
        f.write_str(&self.op)?;
        for arg in &self.args {
            write!(f, " {}", Word(arg))?;
        }
        for (key, value) in &self.attrs {
            write!(f, " {key}={}", Word(value))?;
        }
        if let Some(kind) = &self.kind {
            write!(f, " : {kind}")?;
        }
        Ok(())
    }
}

enum Token {
    Word(String),
    Quoted(String),
    Equals,
    Colon,
}

/// Splits a text into lines; blank lines and comments are left out.
pub fn parse_lines(text: &str) -> Result<Vec<Line>, IrError> {
    let mut lines = Vec::new();
    for (ix, raw) in text.lines().enumerate() {
        let number = ix + 1;
        let tokens = tokenize(raw).map_err(|why| IrError::Parse { line: number, why })?;
        if !tokens.is_empty() {
            lines.push(assemble(number, tokens)?);
        }
    }
    Ok(lines)
}

fn tokenize(raw: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = raw.trim_start();
    while let Some(first) = rest.chars().next() {
        match first {
            '#' => break,
            '=' => {
                tokens.push(Token::Equals);
                rest = &rest[1..];
            }
            ':' => {
                tokens.push(Token::Colon);
                // The type is the rest of the line.
                let kind = rest[1..].trim();
                tokens.push(Token::Word(kind.into()));
                return Ok(tokens);
            }
            '"' => {
                let mut escaped = false;
                let end = rest[1..].find(|c: char| {
                    let closes = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    closes
                });
                let end = end.ok_or("a string without its closing quote")? + 2;
                let text = serde_json::from_str::<String>(&rest[..end]).map_err(|e| format!("bad string: {e}"))?;
                tokens.push(Token::Quoted(text));
                rest = &rest[end..];
            }
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || c == '=' || c == '"').unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].into()));
                rest = &rest[end..];
            }
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn assemble(number: usize, tokens: Vec<Token>) -> Result<Line, IrError> {
    let error = |why: &str| IrError::Parse { line: number, why: why.into() };
    let mut line = Line { number, ..Line::default() };
    let mut tokens = tokens.into_iter().peekable();
    let mut words = 0;
    while let Some(token) = tokens.next() {
        let word = match token {
            Token::Equals => return Err(error("`=` without a name before it")),
            Token::Colon => {
                line.kind = match tokens.next() {
                    Some(Token::Word(kind)) if !kind.is_empty() => Some(kind),
                    _ => return Err(error("`:` without a type after it")),
                };
                break;
            }
            Token::Word(word) | Token::Quoted(word) => word,
        };
        if matches!(tokens.peek(), Some(Token::Equals)) {
            tokens.next();
            if words == 0 && line.result.is_none() {
                line.result = Some(word);
                continue;
            }
            match tokens.next() {
                Some(Token::Word(value) | Token::Quoted(value)) => line.attrs.push((word, value)),
                _ => return Err(error("an attribute without a value")),
            }
            continue;
        }
        if words == 0 {
            line.op = word;
        } else if line.attrs.is_empty() {
            line.args.push(word);
        } else {
            return Err(error("an operand after an attribute"));
        }
        words += 1;
    }
    if line.op.is_empty() { Err(error("a line without an op")) } else { Ok(line) }
}

//! Pure: label and field selectors as a request writes them, with the reference server's errors.
//!
//! The label grammar is `labels.Parse`'s: a lexer that takes `in` and `notin` for operators only
//! where an operator may stand, and a parser that names what it found and what it expected.

use crate::object::selector::{Requirement, Selector};
use crate::object::{ApiError, Key, Kind};
use crate::store::Pairs;

/// Which records a request is about, by what the store knows of them without decoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub labels: Selector,
    pub fields: Vec<FieldTerm>,
}

/// `spec.nodeName=n1` or `status.phase!=Failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    pub negated: bool,
}

impl Selection {
    /// # Errors
    /// `BadRequest` in the reference server's words, for either selector's text.
    pub fn parse(kind: Kind, labels: Option<&str>, fields: Option<&str>) -> Result<Self, ApiError> {
        Ok(Self {
            labels: label_selector(labels.unwrap_or_default()).map_err(ApiError::bad_request)?,
            fields: field_selector(kind, fields.unwrap_or_default())
                .map_err(ApiError::bad_request)?,
        })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Whether an object counts, by its key, labels and selectable fields (absent ones are empty).
    pub fn matches(&self, key: &Key, labels: &Pairs, fields: &Pairs) -> bool {
        self.labels.matches_by(&|label| labels.get(label))
            && self.fields.iter().all(|term| {
                let actual = match term.field.as_str() {
                    "metadata.name" => key.name.as_str(),
                    "metadata.namespace" => key.namespace.as_str(),
                    field => fields.get(field).unwrap_or_default(),
                };
                (actual == term.value) != term.negated
            })
    }

    /// Narrows the selection to one name: a watch of one object is one of its collection.
    pub fn only(&mut self, name: &str) {
        self.fields.push(FieldTerm {
            field: "metadata.name".to_owned(),
            value: name.to_owned(),
            negated: false,
        });
    }

    /// The one name that `metadata.name=…` leaves, if it does: a list of it is a get.
    pub fn only_name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|term| term.field == "metadata.name" && !term.negated)
            .map(|term| term.value.as_str())
    }
}

/// `a=b,c!=d,e`, `\` escapes the next character in a value.
fn field_selector(kind: Kind, text: &str) -> Result<Vec<FieldTerm>, String> {
    let mut terms = Vec::new();
    for part in split_terms(text) {
        if part.is_empty() {
            continue;
        }
        let (field, value, negated) = split_operator(&part)
            .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
        let known = field == "metadata.name"
            || (field == "metadata.namespace" && kind.row().namespaced)
            || kind.row().selectable.contains(&field);
        if !known {
            return Err(format!("field label not supported: {field}"));
        }
        terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, negated });
    }
    Ok(terms)
}

fn split_terms(text: &str) -> Vec<String> {
    let (mut terms, mut current, mut escaped) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        if character == ',' && !escaped {
            terms.push(std::mem::take(&mut current));
            continue;
        }
        escaped = character == '\\' && !escaped;
        current.push(character);
    }
    terms.push(current);
    terms
}

fn split_operator(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, value, true));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, value, false))
}

fn unescape(value: &str) -> Result<String, String> {
    let (mut plain, mut escaped) = (String::with_capacity(value.len()), false);
    for character in value.chars() {
        match (escaped, character) {
            (true, '\\' | ',' | '=') => {
                plain.push(character);
                escaped = false;
            }
            (true, _) => {
                return Err(format!(
                    "invalid field selector: invalid escape sequence: \\{character}"
                ));
            }
            (false, '\\') => escaped = true,
            (false, ',' | '=') => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {character}"
                ));
            }
            (false, _) => plain.push(character),
        }
    }
    if escaped {
        return Err("invalid field selector: invalid escape sequence: \\".to_owned());
    }
    Ok(plain)
}

/// # Errors
/// What was found where something else was expected, as `labels.Parse` says it.
pub fn label_selector(text: &str) -> Result<Selector, String> {
    let mut parser = Parser { tokens: lex(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek().clone() {
            Token::End => return Ok(Selector { requirements }),
            Token::Word(_) | Token::Not => {
                let requirement = parser
                    .requirement()
                    .map_err(|problem| format!("unable to parse requirement: {problem}"))?;
                requirements.push(requirement);
                match parser.next() {
                    Token::End => return Ok(Selector { requirements }),
                    Token::Comma => match parser.peek() {
                        Token::Word(_) | Token::Not => {}
                        other => {
                            return Err(format!(
                                "found '{}', expected: identifier after ','",
                                other.text()
                            ));
                        }
                    },
                    other => {
                        return Err(format!(
                            "found '{}', expected: ',' or 'end of string'",
                            other.text()
                        ));
                    }
                }
            }
            other => {
                return Err(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    other.text()
                ));
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Open,
    Close,
    Comma,
    /// Operator characters that make none together.
    Odd(String),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) | Self::Odd(word) => word,
            Self::Not => "!",
            Self::Equals => "=",
            Self::DoubleEquals => "==",
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::Open => "(",
            Self::Close => ")",
            Self::Comma => ",",
            Self::End => "",
        }
    }
}

fn lex(text: &str) -> Vec<Token> {
    const SPECIAL: &str = "=!(),<>";
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if SPECIAL.contains(first) {
            let (token, length) = match rest.as_bytes() {
                [b'=', b'=', ..] => (Token::DoubleEquals, 2),
                [b'!', b'=', ..] => (Token::NotEquals, 2),
                [b'=', ..] => (Token::Equals, 1),
                [b'!', ..] => (Token::Not, 1),
                [b'(', ..] => (Token::Open, 1),
                [b')', ..] => (Token::Close, 1),
                [b',', ..] => (Token::Comma, 1),
                [b'<', ..] => (Token::Less, 1),
                [b'>', ..] => (Token::Greater, 1),
                _ => (Token::Odd(first.to_string()), first.len_utf8()),
            };
            tokens.push(token);
            rest = &rest[length..];
        } else {
            let end =
                rest.find(|c: char| SPECIAL.contains(c) || c.is_whitespace()).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = *self.peek() == Token::Not;
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        check_key(&key)?;
        if negated {
            return Ok(Requirement::DoesNotExist(key));
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(Requirement::Exists(key));
        }
        let operator = self.next();
        match &operator {
            Token::Word(word) if word == "in" || word == "notin" => {
                let values = self.values()?;
                if values.is_empty() {
                    return Err(
                        "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                            .to_owned(),
                    );
                }
                for (at, value) in values.iter().enumerate() {
                    check_value(&format!("values[{at}][{key}]"), value)?;
                }
                Ok(if word == "in" {
                    Requirement::In(key, values)
                } else {
                    Requirement::NotIn(key, values)
                })
            }
            Token::Equals | Token::DoubleEquals => {
                Ok(Requirement::In(key.clone(), vec![self.checked_value(&key)?]))
            }
            Token::NotEquals => {
                Ok(Requirement::NotIn(key.clone(), vec![self.checked_value(&key)?]))
            }
            Token::Greater => Ok(Requirement::Greater(key, self.number()?)),
            Token::Less => Ok(Requirement::Less(key, self.number()?)),
            other => {
                Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()))
            }
        }
    }

    fn checked_value(&mut self, key: &str) -> Result<String, String> {
        let value = self.exact_value()?;
        check_value(&format!("values[0][{key}]"), &value)?;
        Ok(value)
    }

    fn number(&mut self) -> Result<i64, String> {
        let value = self.exact_value()?;
        value.parse().map_err(|_| {
            format!(
                "values[0]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            Token::Word(value) => Ok(value),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Open => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Close => break,
                Token::Word(value) => {
                    values.push(value);
                    match self.next() {
                        Token::Close => break,
                        Token::Comma => {
                            if *self.peek() == Token::Close {
                                values.push(String::new());
                            }
                        }
                        other => {
                            return Err(format!("found '{}', expected: ',' or ')'", other.text()));
                        }
                    }
                }
                Token::Comma => values.push(String::new()),
                other => {
                    return Err(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        other.text()
                    ));
                }
            }
        }
        // A set: sorted and without doubles, as the reference server prints it.
        values.sort();
        values.dedup();
        Ok(values)
    }
}

const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn is_name_part(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_fault = prefix
        .map(crate::object::name::subdomain_faults)
        .and_then(|faults| faults.into_iter().next());
    match prefix_fault {
        Some(fault) => Err(format!("key: Invalid value: \"{key}\": prefix part {fault}")),
        None if is_name_part(name) => Ok(()),
        None => Err(format!("key: Invalid value: \"{key}\": {NAME_PART}")),
    }
}

fn check_value(field: &str, value: &str) -> Result<(), String> {
    if value.is_empty() || is_name_part(value) {
        return Ok(());
    }
    if value.len() > 63 {
        return Err(format!(
            "{field}: Invalid value: \"{value}\": must be no more than 63 characters"
        ));
    }
    Err(format!("{field}: Invalid value: \"{value}\": {LABEL_VALUE}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn matches(text: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        label_selector(text).expect("parses").matches(&labels)
    }

    #[test]
    fn the_grammar_of_labels() {
        assert!(matches("", &[]));
        assert!(matches("app=web", &[("app", "web")]));
        assert!(matches("app==web,tier", &[("app", "web"), ("tier", "x")]));
        assert!(matches("app in (a, web),!gone", &[("app", "web")]));
        assert!(matches("app notin (a)", &[]));
        assert!(matches("app!=a", &[("app", "b")]));
        assert!(!matches("app!=a", &[("app", "a")]));
        assert!(matches("size > 3, size<9", &[("size", "5")]));
        assert!(matches("in=1", &[("in", "1")]));
        assert!(matches("a=", &[("a", "")]));
        assert!(matches("a in (,b)", &[("a", "")]));
    }

    #[test]
    fn what_is_no_selector_is_said_as_the_reference_says_it() {
        for (text, error) in [
            (
                "a b c",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(label_selector(text).expect_err(text), error, "{text}");
        }
        assert!(label_selector("a in (b").is_err());
        assert!(label_selector("ä=b").is_err());
        assert!(label_selector("a=b=c").is_err());
    }

    #[test]
    fn fields_are_the_kinds_own() {
        let terms =
            field_selector(Kind::Pod, "spec.nodeName=n1,status.phase!=Failed,metadata.name==a\\,b")
                .expect("parses");
        assert_eq!(terms.len(), 3);
        assert!(terms[1].negated);
        assert_eq!(terms[2].value, "a,b");
        assert_eq!(
            field_selector(Kind::Pod, "spec.nope=x").expect_err("unknown"),
            "field label not supported: spec.nope"
        );
        assert_eq!(
            field_selector(Kind::Pod, "what").expect_err("no operator"),
            "invalid selector: 'what'; can't understand 'what'"
        );
        assert!(field_selector(Kind::Node, "metadata.namespace=a").is_err());
        assert!(field_selector(Kind::Pod, "metadata.name=a\\").is_err());
    }
}

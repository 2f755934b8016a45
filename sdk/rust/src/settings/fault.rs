//! What is wrong with a value of the settings, and where in them.

use std::fmt::{self, Display, Formatter, Write as _};

use serde::de::{self, Expected, Unexpected};

use super::json::Json;

/// What is wrong, and where. No larger than a pointer, for each type that is read has code to hand it on.
#[derive(Debug)]
pub(super) struct Fault(Box<Wrong>);

#[derive(Debug)]
struct Wrong {
    /// A JSON Pointer.
    path: String,
    message: String,
}

impl Fault {
    /// Of a value of another sort than is expected.
    #[cold]
    #[inline(never)]
    pub(super) fn mismatch(found: &Json, expected: &dyn Expected) -> Self {
        let found = match found {
            Json::Null => Unexpected::Unit,
            Json::Bool(found) => Unexpected::Bool(*found),
            Json::Unsigned(found) => Unexpected::Unsigned(*found),
            Json::Signed(found) => Unexpected::Signed(*found),
            Json::Float(found) => Unexpected::Float(*found),
            Json::Text(found) => Unexpected::Str(found),
            Json::List(_) => Unexpected::Seq,
            Json::Mapping(_) => Unexpected::Map,
        };
        de::Error::invalid_type(found, expected)
    }

    /// As it is seen from the list or the mapping that the value has this name in.
    #[cold]
    pub(super) fn within(mut self, name: &str) -> Self {
        let mut path = String::from("/");
        name.chars().for_each(|c| match c {
            '~' => path.push_str("~0"),
            '/' => path.push_str("~1"),
            c => path.push(c),
        });
        path.push_str(&self.0.path);
        self.0.path = path;
        self
    }
}

impl From<Fault> for (String, String) {
    fn from(Fault(wrong): Fault) -> Self {
        (wrong.path, wrong.message)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    #[cold]
    fn custom<T: Display>(message: T) -> Self {
        Self(Box::new(Wrong { path: String::new(), message: message.to_string() }))
    }

    #[cold]
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("invalid type: {}, expected {expected}", Found(found)))
    }

    #[cold]
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("invalid value: {}, expected {expected}", Found(found)))
    }
}

/// In serde's words, but for `null`. Neither are fractions told with their digits nor are texts printed by `Debug`: each
/// takes more code than all that is here.
struct Found<'a>(Unexpected<'a>);

impl Display for Found<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Bool(found) => write!(f, "boolean `{found}`"),
            Unexpected::Unsigned(found) => write!(f, "integer `{found}`"),
            Unexpected::Signed(found) => write!(f, "integer `{found}`"),
            Unexpected::Float(_) => f.write_str("a number with a fraction"),
            Unexpected::Char(found) => text(f, found.encode_utf8(&mut [0; 4])),
            Unexpected::Str(found) => text(f, found),
            Unexpected::Unit | Unexpected::Option => f.write_str("null"),
            Unexpected::Seq => f.write_str("sequence"),
            Unexpected::Map => f.write_str("map"),
            Unexpected::Other(found) => f.write_str(found),
            _ => f.write_str("something else"),
        }
    }
}

/// On one line.
fn text(f: &mut Formatter<'_>, found: &str) -> fmt::Result {
    f.write_str("string \"")?;
    found.chars().try_for_each(|c| f.write_char(if c.is_control() { ' ' } else { c }))?;
    f.write_char('"')
}

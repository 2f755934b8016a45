//! From the JSON text of the settings to a policy, and what is wrong with them.

mod fault;
mod json;
mod read;

use serde::de::DeserializeOwned;

use self::json::Json;

/// What is wrong with the settings: for each field where it is, as a JSON Pointer such as `/rules/0`, and what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invalid(Vec<(String, String)>);

impl Invalid {
    /// One field.
    pub fn field(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![(path.into(), message.into())])
    }

    /// Another field.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push((path.into(), message.into()));
    }

    /// `value`, if nothing is wrong.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl IntoIterator for Invalid {
    type Item = (String, String);
    type IntoIter = std::vec::IntoIter<(String, String)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Reads the settings and makes the policy.
pub fn configure<S: DeserializeOwned, P>(settings: &str, new: impl Fn(S) -> Result<P, Invalid>) -> Result<P, Invalid> {
    let settings = parse(settings)?;
    let read = S::deserialize(&settings);
    new(read.map_err(|fault| Invalid(vec![fault.into()]))?)
}

/// The host hands over JSON: whatever else this is, nobody wrote it as settings.
fn parse(settings: &str) -> Result<Json, Invalid> {
    serde_json::from_str(settings)
        .map_err(|error| Invalid::field("", format!("it is no JSON: line {}, column {}", error.line(), error.column())))
}

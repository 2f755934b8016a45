//! From the JSON text of the settings to a policy, and what is wrong with them.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

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
    let mut json = serde_json::Deserializer::from_str(settings);
    let read = serde_path_to_error::deserialize(&mut json);
    let settings = read.map_err(|error| Invalid::field(pointer(error.path()), plain(error.inner())))?;
    json.end().map_err(|error| Invalid::field("", plain(&error)))?;
    new(settings)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push('/');
                key.chars().for_each(|c| match c {
                    '~' => pointer.push_str("~0"),
                    '/' => pointer.push_str("~1"),
                    c => pointer.push(c),
                });
            }
            Segment::Unknown => {}
        }
    }
    pointer
}

/// The message without serde's "at line 1 column 7": there are no lines for the one who wrote YAML.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Whole, for a search in the text would be a twentieth of a component's code.
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).map_or_else(|| text.clone(), str::to_owned)
}

//! Settings as they stand in a document: any YAML, with the line of each part, so that what a component says of a setting
//! can be shown where it was written.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// The settings of a module.
#[derive(Clone, Debug, Default)]
pub struct Settings(Option<Spanned<Node>>);

impl Settings {
    pub(crate) fn new(node: Spanned<Node>) -> Self {
        Self(Some(node))
    }

    /// As JSON; `{}` if there are none.
    pub fn json(&self) -> String {
        match &self.0 {
            Some(node) => node.value.json().to_string(),
            None => "{}".into(),
        }
    }

    /// The line of what a JSON Pointer points to, or of the nearest part around it that is there.
    pub fn line(&self, pointer: &str) -> Option<u64> {
        let mut node = self.0.as_ref()?;
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            match node.value.get(&part) {
                Some(inner) => node = inner,
                None => break,
            }
        }
        Some(node.referenced.line()).filter(|line| *line > 0)
    }
}

/// A part of a document.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

impl Node {
    fn get(&self, part: &str) -> Option<&Spanned<Self>> {
        match self {
            Self::Scalar(_) => None,
            Self::List(items) => items.get(part.parse::<usize>().ok()?),
            Self::Map(entries) => entries.iter().find(|(key, _)| key == part).map(|(_, value)| value),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => items.iter().map(|item| item.value.json()).collect(),
            Self::Map(entries) => Value::Object(
                entries.iter().map(|(key, value)| (key.clone(), value.value.json())).collect::<Map<_, _>>(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("infinity and NaN are no settings"))?;
        Ok(Node::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        Node::deserialize(from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = from.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

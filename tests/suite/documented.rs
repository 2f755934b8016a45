//! What `docs/cli.md` says of the JSON of a command, read from that page, and whether a value is that: it has the fields
//! that are named, no others, and where the page lists the words of a field, one of these.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// A shape as the page writes it: `{"point", "disks": [{"name", "effect": "lost|readable"}], "immutable": null|{…}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Anything: a field that has no more to it than its name, or a placeholder such as `PATH`.
    Any,
    Null,
    /// One of these words.
    Words(Vec<String>),
    List(Box<Shape>),
    Fields(Vec<(String, Shape)>),
    /// Such as `null|{"until"}`.
    OneOf(Vec<Shape>),
}

/// The shapes in the section of a command (`"remora backup VM"`), in their order.
#[track_caller]
pub(crate) fn documented(command: &str) -> Vec<Shape> {
    let heading = format!("### `{command}`");
    let found = sections(&page()).into_iter().find(|(title, _)| *title == heading);
    let (_, shapes) = found.unwrap_or_else(|| panic!("docs/cli.md has no section {heading:?}"));
    assert!(!shapes.is_empty(), "docs/cli.md has no JSON of {command:?}");
    shapes
}

/// The only shape in the section of a command.
#[track_caller]
pub(crate) fn the_documented(command: &str) -> Shape {
    <[Shape; 1]>::try_from(documented(command)).unwrap()[0].clone()
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The page's sections with the shapes in their blocks.
fn sections(page: &str) -> Vec<(String, Vec<Shape>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    let mut block: Option<(bool, String)> = None;
    for line in page.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(language)) => block = Some((language.is_empty(), String::new())),
            (Some(_), Some(_)) => {
                let (_, text) = block.take().filter(|(plain, _)| *plain).unwrap_or_default();
                sections.last_mut().unwrap().1.extend(parse(&text));
            }
            (Some((_, text)), None) => text.extend([line, "\n"]),
            (None, None) if line.starts_with('#') => sections.push((line.to_owned(), Vec::new())),
            (None, None) => {}
        }
    }
    sections
}

/// All shapes of a text, one after the other.
fn parse(text: &str) -> Vec<Shape> {
    let mut parser = Parser { text, rest: text };
    let mut shapes = Vec::new();
    while !parser.rest.trim_start().is_empty() {
        shapes.push(parser.shape());
    }
    shapes
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Parser<'_> {
    /// Goes past this, if it comes next.
    fn takes(&mut self, what: &str) -> bool {
        let rest = self.rest.trim_start();
        let found = rest.strip_prefix(what);
        self.rest = found.unwrap_or(rest);
        found.is_some()
    }

    #[track_caller]
    fn must_take(&mut self, what: &str) {
        assert!(self.takes(what), "docs/cli.md: {what:?} is missing before {:?} in {:?}", self.rest, self.text);
    }

    fn shape(&mut self) -> Shape {
        let mut shapes = vec![self.one_shape()];
        while self.takes("|") {
            shapes.push(self.one_shape());
        }
        if shapes.len() == 1 { shapes.remove(0) } else { Shape::OneOf(shapes) }
    }

    fn one_shape(&mut self) -> Shape {
        if self.takes("{") {
            return Shape::Fields(self.until("}", Self::field));
        }
        if self.takes("[") {
            let mut items = self.until("]", Self::shape);
            assert!(items.len() <= 1, "docs/cli.md: a list has one kind of item: {:?}", self.text);
            return Shape::List(Box::new(items.pop().unwrap_or(Shape::Any)));
        }
        if self.takes("null") {
            return Shape::Null;
        }
        if self.takes("\"") {
            return Shape::Words(self.quoted().split('|').map(Into::into).collect());
        }
        // A placeholder: `PATH`, `n`, `...`.
        let end = self.rest.find(|c: char| ",|]} \n".contains(c)).unwrap_or(self.rest.len());
        assert!(end > 0, "docs/cli.md: nothing stands before {:?} in {:?}", self.rest, self.text);
        self.rest = &self.rest[end..];
        Shape::Any
    }

    fn field(&mut self) -> (String, Shape) {
        self.must_take("\"");
        let name = self.quoted();
        let shape = if self.takes(":") {
            self.shape()
        } else {
            // `"error"|null`: that it may be null says no more than nothing does.
            if self.takes("|") {
                self.must_take("null");
            }
            Shape::Any
        };
        (name, shape)
    }

    fn quoted(&mut self) -> String {
        let (text, rest) =
            self.rest.split_once('"').unwrap_or_else(|| panic!("docs/cli.md: no quote in {:?}", self.rest));
        self.rest = rest;
        text.to_owned()
    }

    fn until<T>(&mut self, end: &str, item: impl Fn(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        while !self.takes(end) {
            items.push(item(self));
            if !self.takes(",") {
                self.must_take(end);
                break;
            }
        }
        items
    }
}

impl Shape {
    /// Without fields that are there in some cases only.
    pub(crate) fn without(self, names: &[&str]) -> Self {
        let Self::Fields(mut fields) = self else { panic!("{self:?} has no fields") };
        for name in names {
            assert!(fields.iter().any(|(field, _)| field == name), "{name:?} is not documented: {fields:?}");
        }
        fields.retain(|(field, _)| !names.contains(&field.as_str()));
        Self::Fields(fields)
    }

    /// With the fields of another one as well.
    pub(crate) fn and(self, more: Self) -> Self {
        let (Self::Fields(mut fields), Self::Fields(more)) = (self, more) else { panic!("these are no fields") };
        fields.extend(more);
        Self::Fields(fields)
    }

    /// That of the items of a list, which a field of this name is.
    pub(crate) fn items(&self, name: &str) -> Self {
        let Self::Fields(fields) = self else { panic!("{self:?} has no fields") };
        let found = fields.iter().find(|(field, _)| field == name);
        let Some((_, Self::List(item))) = found else { panic!("{name:?} is no list in {self:?}") };
        (**item).clone()
    }

    #[track_caller]
    pub(crate) fn assert_of(&self, value: &Value) {
        let mut wrong = Vec::new();
        self.compare("", value, &mut wrong);
        assert!(wrong.is_empty(), "not as docs/cli.md says: {}\n{value:#}", wrong.join("; "));
    }

    fn compare(&self, place: &str, value: &Value, wrong: &mut Vec<String>) {
        match (self, value) {
            (Self::Any, _) | (Self::Null, Value::Null) => {}
            (Self::Words(words), Value::String(word)) if words.contains(word) => {}
            (Self::List(shape), Value::Array(items)) => {
                items.iter().for_each(|item| shape.compare(&format!("{place}[]"), item, wrong));
            }
            (Self::Fields(shapes), Value::Object(fields)) => {
                let names: BTreeSet<_> = shapes.iter().map(|(name, _)| name).collect();
                wrong.extend(
                    fields.keys().filter(|name| !names.contains(name)).map(|name| format!("{place}.{name} is new")),
                );
                for (name, shape) in shapes {
                    match fields.get(name) {
                        Some(value) => shape.compare(&format!("{place}.{name}"), value, wrong),
                        None => wrong.push(format!("{place}.{name} is missing")),
                    }
                }
            }
            (Self::OneOf(shapes), value) => {
                let fits = |shape: &Self| {
                    let mut wrong = Vec::new();
                    shape.compare(place, value, &mut wrong);
                    wrong
                };
                let all: Vec<_> = shapes.iter().map(fits).collect();
                // What it is nearest to; of `null|{…}` rather the second.
                let nearest = all.into_iter().rev().min_by_key(Vec::len);
                wrong.extend(nearest.unwrap_or_default());
            }
            (shape, value) => wrong.push(format!("{place} is {value} and not {shape:?}")),
        }
    }
}

#[test]
fn every_json_of_the_page_can_be_read() {
    let sections = sections(&page());
    let shapes = sections.iter().map(|(_, shapes)| shapes.len()).sum::<usize>();
    assert!(shapes >= 20, "{shapes} shapes in {sections:?}");
}

#[test]
fn what_is_not_as_documented_is_noticed() {
    let shape = parse(r#"{"id", "kind": "a|b", "list": [{"x"|null, "y": [...]}], "more": null|{"until"}}"#).remove(0);
    let fits = |text: &str| {
        let mut wrong = Vec::new();
        shape.compare("", &serde_json::from_str(text).unwrap(), &mut wrong);
        wrong.join("; ")
    };
    assert_eq!(fits(r#"{"id": 1, "kind": "b", "list": [{"x": null, "y": [{}]}], "more": {"until": 1}}"#), "");
    assert_eq!(fits(r#"{"id": null, "kind": "a", "list": [], "more": null}"#), "");
    assert_eq!(fits(r#"{"kind": "a", "list": [], "more": null}"#), ".id is missing");
    assert_eq!(fits(r#"{"id": 1, "kind": "a", "list": [], "more": null, "and": 1}"#), ".and is new");
    assert_eq!(fits(r#"{"id": 1, "kind": "a", "list": [{"x": 1}], "more": null}"#), ".list[].y is missing");
    assert_eq!(fits(r#"{"id": 1, "kind": "a", "list": [], "more": {}}"#), ".more.until is missing");
    assert!(fits(r#"{"id": 1, "kind": "c", "list": [], "more": null}"#).starts_with(".kind is \"c\" and not "));
    assert!(fits(r#"{"id": 1, "kind": "a", "list": {}, "more": null}"#).starts_with(".list is {} and not "));
}

//! The answer to PROPFIND (RFC 4918, section 13).

use remora_sdk::objects::{Class, Error, http_time};
use roxmltree::{Document, Node};

const DAV: &str = "DAV:";

/// A member of a collection.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) collection: bool,
    size: Option<u64>,
    modified: Option<i64>,
    pub(crate) etag: Option<String>,
}

impl Member {
    pub(crate) fn size_and_time(&self) -> Result<(u64, i64), Error> {
        let known = self.size.zip(self.modified);
        known.ok_or_else(|| unreadable("it tells of an object without its length, or its time"))
    }
}

fn unreadable(what: impl std::fmt::Display) -> Error {
    Error::new(Class::Retryable, "unreadable", format!("the server's listing cannot be read: {what}"))
}

/// The members of the collection at `url`, which the answer tells of too.
pub(crate) fn members(xml: &str, url: &str) -> Result<Vec<Member>, Error> {
    // Without a document type, as this parser wants it by default: there are no entities that could grow.
    let document = Document::parse(xml).map_err(unreadable)?;
    let own = path(url).ok_or_else(|| unreadable("the collection's own URL"))?;
    let mut members = Vec::new();
    for response in named(document.root_element(), "response") {
        let href = named(response, "href").next().and_then(|href| href.text()).and_then(|href| path(href.trim()));
        let href = href.ok_or_else(|| unreadable("a member without a path"))?;
        if href == own {
            continue;
        }
        let below = if own.is_empty() { Some(href.as_str()) } else { href.strip_prefix(&format!("{own}/")) };
        let name =
            below.filter(|name| !name.contains('/')).ok_or_else(|| unreadable("a member of another collection"))?;
        members.push(member(name, response));
    }
    Ok(members)
}

fn named<'a, 'input>(node: Node<'a, 'input>, name: &'static str) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(move |child| child.has_tag_name((DAV, name)))
}

fn member(name: &str, response: Node<'_, '_>) -> Member {
    // Properties that are not there come in another `propstat`, with another status.
    let found = named(response, "propstat").filter(|propstat| {
        let status = named(*propstat, "status").next().and_then(|status| status.text()).unwrap_or_default();
        status.split_ascii_whitespace().nth(1) == Some("200")
    });
    let properties: Vec<_> = found.flat_map(|propstat| named(propstat, "prop")).collect();
    let property = |name| properties.iter().flat_map(|prop| named(*prop, name)).next();
    let text = |name| property(name).and_then(|property| property.text()).map(str::trim);
    Member {
        name: name.into(),
        collection: property("resourcetype").is_some_and(|kind| named(kind, "collection").next().is_some()),
        size: text("getcontentlength").and_then(|size| size.parse().ok()),
        modified: text("getlastmodified").and_then(http_time),
        etag: text("getetag").map(Into::into),
    }
}

/// The path of a URL, or of what is one already: decoded, without slashes around it.
fn path(url: &str) -> Option<String> {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => url,
    };
    decoded(path.trim_matches('/'))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}
